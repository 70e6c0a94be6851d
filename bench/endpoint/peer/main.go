// Command peer is everything around the proxies that bench/endpoint.ts measures: a backend, the agent's link on a unix
// socket in place of a guest, and a client.
//
//	peer backend                                      small answers, bulk answers and a sink; prints its port
//	peer link SOCKET                                  the agent's own link and tunnels, as in a guest
//	peer rate URL CA TOKEN PER-SECOND CONNECTIONS SECONDS    latency at a fixed rate
//	peer hold CA ENDPOINTS                            idle WebSockets, opened and closed as its input says
//	peer down|up URL CA TOKEN BYTES                   throughput of one transfer
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"rekindle/agent/link"
	"rekindle/agent/tunnel"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "backend":
		return serveBackend()
	case len(args) == 2 && args[0] == "link":
		return serveLink(args[1])
	case len(args) == 7 && args[0] == "rate":
		numbers, err := integers(args[4:])
		if err != nil {
			return err
		}
		return atRate(args[1], args[2], args[3], numbers[0], numbers[1], numbers[2])
	case len(args) == 3 && args[0] == "hold":
		return hold(args[1], args[2])
	case len(args) == 5 && (args[0] == "down" || args[0] == "up"):
		bytes, err := strconv.ParseInt(args[4], 10, 64)
		if err != nil {
			return err
		}
		return transfer(args[0], args[1], args[2], args[3], bytes)
	}
	return fmt.Errorf("see the top of main.go for what may be asked")
}

func integers(texts []string) ([]int, error) {
	numbers := make([]int, len(texts))
	for i, text := range texts {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", text)
		}
		numbers[i] = n
	}
	return numbers, nil
}

func serveLink(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Println("ready")
	handler := func(ctx context.Context, stream *link.Stream, request []byte) {
		var asked struct {
			Op   string `json:"op"`
			Port int    `json:"port"`
		}
		if err := json.Unmarshal(request, &asked); err != nil || asked.Op != "tunnel" {
			stream.Reset(link.Errorf(link.CodeInvalid, "only tunnels here"))
			return
		}
		tunnel.Serve(ctx, stream, asked.Port)
	}
	return link.NewServer(newPort(listener), handler, func(link.Restore) error { return nil }).Serve()
}
