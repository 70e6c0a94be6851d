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

// The kernel reports free pages to the balloon two seconds after they became free.
const reportingDelay = 2200 * time.Millisecond

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
	debug.FreeOSMemory()
	for _, file := range []string{"/proc/sys/vm/drop_caches", "/proc/sys/vm/compact_memory"} {
		value := "1"
		if file == "/proc/sys/vm/drop_caches" {
			value = "3"
		}
		if err := os.WriteFile(file, []byte(value), 0o200); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	select {
	case <-time.After(reportingDelay):
	case <-ctx.Done():
		return ctx.Err()
	}
	unix.Sync()
	return nil
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
