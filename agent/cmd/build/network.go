package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Addresses of QEMU's user network.
const (
	guestAddress = "10.0.2.15/24"
	hostAddress  = "10.0.2.2"
	nameServer   = "10.0.2.3"
)

// configureNetwork gives the build its way out, and refuses the two places that must not be reached from a RUN step:
// 10.0.2.2 is the loopback of the host, 169.254.0.0/16 its metadata services. RUN steps lack the right to change routes.
func configureNetwork(ctx context.Context) error {
	device, err := networkDevice()
	if err != nil {
		return err
	}
	// The user network also answers for the host's loopback by IPv6.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", device, "mtu", "1500", "up"},
		{"address", "replace", guestAddress, "dev", device},
		// onlink: the gateway need not be looked up, so that prohibiting its address below does not cut the way through it.
		{"route", "replace", "default", "via", hostAddress, "dev", device, "onlink"},
		{"route", "replace", "prohibit", hostAddress + "/32"},
		{"route", "replace", "prohibit", "169.254.0.0/16"},
	} {
		if err := command(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return os.WriteFile("/etc/resolv.conf", []byte("nameserver "+nameServer+"\n"), 0o644)
}

func networkDevice() (string, error) {
	devices, err := filepath.Glob("/sys/class/net/*/device")
	if err != nil {
		return "", err
	}
	if len(devices) == 0 {
		return "", fmt.Errorf("the builder has no network device")
	}
	return filepath.Base(filepath.Dir(devices[0])), nil
}
