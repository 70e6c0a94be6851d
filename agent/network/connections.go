package network

import (
	"os"
	"sync"
)

// Connections tells whether anything can lead out of the guest without asking the kernel for all it has: a kernel that was
// just restored runs every instruction for the first time, and its list took 15 ms under emulation.
type Connections struct {
	sent *os.File

	mu sync.Mutex
	// What the card had sent when no connection led out; empty when that is not known.
	quietAt string
}

// OpenConnections keeps the counter at hand; without a card there is none.
func OpenConnections() *Connections {
	sent, err := os.Open("/sys/class/net/" + device + "/statistics/tx_packets")
	if err != nil {
		sent = nil
	}
	return &Connections{sent: sent}
}

// Settle looks ahead of a snapshot, at leisure, so that machines launched from it need not.
func (c *Connections) Settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// First: what begins after this adds to it.
	sent := c.count()
	found, err := withKernel(outgoing)
	c.quietAt = ""
	if err == nil && len(found) == 0 {
		c.quietAt = sent
	}
	return err
}

// Cut ends what leads out of the guest after a restore, and returns how many those were.
func (c *Connections) Cut() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.count()
	if sent != "" && sent == c.quietAt {
		return 0, nil
	}
	cut, err := withKernel(cutAll)
	c.quietAt = ""
	if err == nil && cut == 0 {
		c.quietAt = sent
	}
	return cut, err
}

func (c *Connections) count() string {
	if c.sent == nil {
		return ""
	}
	var text [24]byte
	n, _ := c.sent.ReadAt(text[:], 0)
	return string(text[:n])
}
