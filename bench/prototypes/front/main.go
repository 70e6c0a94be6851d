// Command front is a prototype to measure, no product: what a native data plane would carry (docs/decisions/0012).
//
//	front CERT KEY CA TOKEN APP-PORT LINK...
//
// One loopback port for each link. It terminates TLS, takes HTTP/1.1 heads apart, checks the token, rewrites headers and carries
// requests, answers with a length, and upgrades over the agent's link. Prints its endpoints, and its memory for each line it reads.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

type endpoint struct {
	Port  int    `json:"port"`
	Token string `json:"token"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 6 {
		return fmt.Errorf("see the top of main.go for what may be asked")
	}
	certificate, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	appPort, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	var endpoints []endpoint
	for _, path := range args[5:] {
		link, err := dialLink(path)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		endpoints = append(endpoints, endpoint{listener.Addr().(*net.TCPAddr).Port, args[3]})
		f := &front{token: args[3], appPort: appPort, link: link}
		go f.serve(listener, config)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"endpoints": endpoints, "caFile": args[2]}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		debug.FreeOSMemory()
		if err := json.NewEncoder(os.Stdout).Encode(memory()); err != nil {
			return err
		}
	}
	return nil
}

func memory() map[string]float64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	statm, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseFloat(strings.Fields(string(statm))[1], 64)
	return map[string]float64{"rss": pages * 4096 / 1048576, "heapUsed": float64(stats.HeapAlloc+stats.StackInuse) / 1048576}
}
