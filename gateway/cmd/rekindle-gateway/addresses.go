package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"rekindle/gateway/policy"
)

// watchAddresses keeps the list of the host's own addresses fresh: at once when the kernel announces a change, and now and
// then in case an announcement was lost.
func watchAddresses(ctx context.Context, host *policy.Host, logger *slog.Logger) {
	failed := func(err error) {
		logger.Error("the host's addresses could not be read; those known so far stay refused", "error", err.Error())
	}
	go host.Watch(ctx, lookAgain, failed)
	changes, err := addressChanges()
	if err != nil {
		logger.Warn("changes of the host's addresses are noticed late", "error", err.Error())
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = changes.Close() })
	defer stop()
	message := make([]byte, 4096)
	for {
		// What it says doesn't matter. An overflow is an error, after which as much has changed.
		if _, err := changes.Read(message); err != nil && ctx.Err() != nil {
			return
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
			logger.Warn("changes of the host's addresses are noticed late from now on", "error", err.Error())
			return
		}
		if err := host.Refresh(); err != nil {
			failed(err)
		}
	}
}

// addressChanges gives a message for every address an interface gets or loses.
func addressChanges() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot listen to the kernel: %w", err)
	}
	return os.NewFile(uintptr(fd), "address changes"), nil
}
