// Command rekindle-gateway is the user-space network of every microVM on a host: spec/gateway-protocol.md.
//
//	rekindle-gateway --dir <folder> --flows <folder> [--config <file>]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/gateway/control"
	"rekindle/gateway/dns"
	"rekindle/gateway/flowlog"
	"rekindle/gateway/guest"
	"rekindle/gateway/policy"
)

const (
	// Half of the processors are the machines' own; two goroutines that hand over to each other cost less on one. Every stack
	// starts a goroutine for each, so there is an upper limit too.
	processorsOf, maxProcessors = 2, 16
	// collectAt: the heap is small and lives of pooled buffers, which every collection takes away.
	collectAt = 400
	// buffersOfAll bounds what the connections of all guests hold of both directions, beside the least each one gets.
	buffersOfAll = 1 << 30
	// flushWithin is how long the flow log may take to be written at the end.
	flushWithin = 3 * time.Second
	// lookAgain is how often the host's addresses are read though the kernel announced no change.
	lookAgain = 30 * time.Second
	// lookForFolder is how often it is made sure that the folder is still there.
	lookForFolder = 10 * time.Second
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	code, err := run(ctx, os.Args[1:], logger)
	if err != nil {
		logger.Error("rekindle-gateway", "error", err.Error())
	}
	os.Exit(code)
}

// run returns the exit code: 2 for a call that can't work, 1 for a failure.
func run(ctx context.Context, args []string, logger *slog.Logger) (int, error) {
	options, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	}
	if err != nil {
		return 2, err
	}
	// Guests' bytes are parsed here: a hole must not be a hole in the host.
	if os.Geteuid() == 0 || os.Getuid() == 0 {
		return 2, errors.New("the gateway doesn't run as root; start it under a uid of its own")
	}
	config, err := readConfig(options.config)
	if err != nil {
		return 2, err
	}
	runtime.GOMAXPROCS(min(max(runtime.GOMAXPROCS(0)/processorsOf, 1), maxProcessors))
	debug.SetGCPercent(collectAt)
	if err := serve(ctx, options, config, logger); err != nil {
		return 1, err
	}
	return 0, nil
}

func serve(ctx context.Context, options options, config config, logger *slog.Logger) error {
	folder, err := control.Open(options.dir)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()

	host, err := policy.NewHost(policy.HostConfig{Reachable: config.reachable, Addresses: config.hostAddresses})
	if err != nil {
		return err
	}
	go watchAddresses(ctx, host, logger)
	ctx, stop := untilGone(ctx, folder, logger)
	defer stop()

	resolver, err := dns.NewResolver(dns.ResolverConfig{Upstreams: config.upstreams})
	if err != nil {
		return err
	}
	log, err := flowlog.Open(flowlog.Config{Dir: options.flows})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
		defer cancel()
		if err := log.Close(ctx); err != nil {
			logger.Error("the end of the flow log was not written", "error", err.Error())
		}
	}()

	// Probes as the host's kernel has them: Go's own cost four system calls a connection.
	dialer := &net.Dialer{KeepAlive: -1, Control: keepAlive}
	hub, err := guest.NewHub(options.dir, log, guest.Outside{
		Dial:     dialer.DialContext,
		DialEcho: guest.DialEcho,
		Resolver: resolver,
		Host:     host,
		Buffers:  guest.NewBudget(buffersOfAll, nil),
		Logger:   logger,
	})
	if err != nil {
		return err
	}
	defer hub.Close()

	listener, err := folder.Listen()
	if err != nil {
		return err
	}
	server := &control.Server{Guests: hub, Host: host, Version: version(), Logger: logger}
	logger.Info("ready", "dir", options.dir)
	if err := server.Serve(ctx, listener); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// untilGone ends the context when the folder is gone: a server that was killed and its state folder deleted leaves nobody
// who would end the gateway.
func untilGone(ctx context.Context, folder *control.Folder, logger *slog.Logger) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(lookForFolder)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if folder.IsGone() {
					logger.Warn("the folder is gone, so nobody can reach this gateway any more")
					cancel()
					return
				}
			}
		}
	}()
	return ctx, cancel
}

// keepAlive notices the end of hosts that vanished.
func keepAlive(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		// Only TCP has it; a connection without is one as well.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	})
}

// version is that of the build, for people who compare.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version + " " + info.GoVersion
	}
	return "unknown"
}
