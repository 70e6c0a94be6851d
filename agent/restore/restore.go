// Package restore makes a guest that was just loaded from a snapshot one of its own: its clock shows the time of the
// snapshot, its random numbers and its connections are those of every other machine loaded from it.
package restore

import (
	"fmt"
	"log"
	"os"

	"golang.org/x/sys/unix"

	"rekindle/agent/link"
	"rekindle/agent/network"
)

// rndReseedCRNG is the ioctl without which the kernel goes on handing out the numbers it had prepared: writing a seed
// alone gave four clones one and the same number.
const rndReseedCRNG = 0x5207

// Apply sets the clock, mixes in the seed, then cuts the connections that led out of the guest.
func Apply(step link.Restore, connections *network.Connections) error {
	if err := SetClock(step.WallClockMs); err != nil {
		return err
	}
	if err := reseed(step.Seed); err != nil {
		return err
	}
	// Their other ends forgot them: an app that is not told by us hears it when it next sends.
	if _, err := connections.Cut(); err != nil {
		log.Printf("restore: %v", err)
	}
	return nil
}

// SetClock sets the wall clock.
func SetClock(wallClockMs int64) error {
	at := unix.NsecToTimespec(wallClockMs * 1_000_000)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &at); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

func reseed(seed []byte) error {
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	defer device.Close()
	if _, err := device.Write(seed); err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	if err := unix.IoctlSetInt(int(device.Fd()), rndReseedCRNG, 0); err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	return nil
}
