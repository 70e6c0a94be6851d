// Command linkserve serves the agent's link on a unix socket of the host, so that the other side can be tested without
// a VM: tunnels, logs, listening and status work; a restore step is recorded in the log instead of touching the clock.
//
// Usage: linkserve SOCKET. Prints "ready" when it listens; what it reads on stdin becomes lines of the app's log.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"rekindle/agent/applog"
	"rekindle/agent/link"
	"rekindle/agent/requests"
	"rekindle/agent/unixport"
)

type status struct {
	State string `json:"state"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: linkserve SOCKET")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	var ring applog.Ring
	go ring.Copy(1, os.Stdin)
	table := requests.Table{
		"tunnel":    requests.Tunnel,
		"listening": requests.Listening,
		"logs":      requests.Logs(&ring),
		"container.status": requests.Call(func(context.Context, requests.None) (status, error) {
			return status{"running"}, nil
		}),
	}
	restore := func(step link.Restore) error {
		ring.Add(2, fmt.Sprintf("restore wallClockMs=%d seedBytes=%d", step.WallClockMs, len(step.Seed)), time.Now())
		return nil
	}
	fmt.Println("ready")
	return link.NewServer(unixport.New(listener), table.Handler(), restore).Serve()
}
