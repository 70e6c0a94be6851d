package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"rekindle/gateway/dns"
)

type options struct {
	dir, flows, config string
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("rekindle-gateway", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "", "folder of the gateway's sockets")
	flags.StringVar(&o.flows, "flows", "", "folder of the flow log")
	flags.StringVar(&o.config, "config", "", "JSON file: upstreams, reachable, hostAddresses")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if o.dir == "" || o.flows == "" || flags.NArg() > 0 {
		return options{}, errors.New("usage: rekindle-gateway --dir <folder> --flows <folder> [--config <file>]")
	}
	for _, path := range []*string{&o.dir, &o.flows} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return options{}, fmt.Errorf("cannot tell where %s is: %w", *path, err)
		}
		*path = absolute
	}
	return o, nil
}

type config struct {
	upstreams     []netip.AddrPort
	reachable     []netip.Prefix
	hostAddresses []netip.Addr
}

// readConfig gives the defaults for what the file leaves out; "" is no file.
func readConfig(path string) (config, error) {
	var file struct {
		Upstreams     []netip.AddrPort `json:"upstreams"`
		Reachable     []netip.Prefix   `json:"reachable"`
		HostAddresses []netip.Addr     `json:"hostAddresses"`
	}
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return config{}, fmt.Errorf("cannot read the configuration: %w", err)
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&file); err != nil {
			return config{}, fmt.Errorf("the configuration %s is wrong: %w", path, err)
		}
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return config{}, fmt.Errorf("the configuration %s goes on after its object", path)
		}
	}
	if file.Upstreams == nil {
		var err error
		if file.Upstreams, err = dns.SystemUpstreams("/etc/resolv.conf"); err != nil {
			return config{}, fmt.Errorf("%w; name them in the configuration as \"upstreams\"", err)
		}
	}
	return config{upstreams: file.Upstreams, reachable: file.Reachable, hostAddresses: file.HostAddresses}, nil
}
