// Package settle makes a guest small and still before its snapshot is taken.
package settle

import (
	"context"
	"fmt"
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
	trim(mountPoint)
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

// trim is a courtesy: a disk that cannot is as good as before.
func trim(mountPoint string) {
	dir, err := os.Open(mountPoint)
	if err != nil {
		return
	}
	defer dir.Close()
	all := trimRange{length: ^uint64(0)}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&all)))
}
