package dns

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// SystemUpstreams reads the name servers of a resolv.conf, usually /etc/resolv.conf.
func SystemUpstreams(path string) ([]netip.AddrPort, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the host's name servers: %w", err)
	}
	defer file.Close()
	var upstreams []netip.AddrPort
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			upstreams = append(upstreams, netip.AddrPortFrom(addr, 53))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the host's name servers: %w", err)
	}
	return upstreams, nil
}
