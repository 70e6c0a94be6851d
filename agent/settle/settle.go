// Package settle makes a guest small and still before its snapshot is taken.
package settle

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// The kernel reports free pages to the balloon two seconds after they became free.
	reportingDelay = 2200 * time.Millisecond
	// Less than this is not worth the wait.
	worthReporting = 16 << 20
)

// fitrim is the ioctl FITRIM: tell the disk which blocks of a file system are free.
const fitrim = 0xc0185879

type trimRange struct{ start, length, minLength uint64 }

// Quiesce syncs, and with dropCaches gives back what memory and disk blocks only hold things that can be read again.
func Quiesce(ctx context.Context, mountPoint string, dropCaches bool) error {
	unix.Sync()
	if !dropCaches {
		return nil
	}
	// A courtesy: a disk that cannot is as good as before.
	_ = Trim(mountPoint, 0)
	before := freeBytes()
	debug.FreeOSMemory()
	for _, setting := range [][2]string{{"drop_caches", "3"}, {"compact_memory", "1"}} {
		if err := os.WriteFile("/proc/sys/vm/"+setting[0], []byte(setting[1]), 0); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("quiesce: %w", err)
		}
	}
	if freeBytes()-before >= worthReporting {
		select {
		case <-time.After(reportingDelay):
		case <-ctx.Done():
			return ctx.Err()
		}
		unix.Sync()
	}
	releaseBalloon()
	return nil
}

func freeBytes() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Freeram) * int64(info.Unit)
}

// Trim gives what the file system at the path does not use back to the host, where the disk is a file; holes of less than
// `least` bytes stay.
func Trim(path string, least uint64) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	// What was removed is free only when that is written down.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	all := trimRange{length: math.MaxUint64, minLength: least}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&all))); errno != 0 {
		return fmt.Errorf("trim %s: %w", path, errno)
	}
	return nil
}
