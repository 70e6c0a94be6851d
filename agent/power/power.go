// Package power ends the guest.
package power

import (
	"log"
	"time"

	"golang.org/x/sys/unix"
)

// Off ends the machine and does not return. Where it cannot be powered off it is reset, which ends a VMM that was told not
// to reboot.
func Off() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		log.Printf("power off: %v", err)
	}
	time.Sleep(time.Second)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
