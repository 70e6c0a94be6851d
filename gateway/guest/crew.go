package guest

import "sync"

// maxIdleHands is how many goroutines wait for work; a stack that has grown once serves the next connection too.
const maxIdleHands = 256

// crew runs work in goroutines it keeps. A connection runs deep into the stack's code: growing a new goroutine for it would cost
// a tenth of what making the connection does.
type crew struct {
	mu   sync.Mutex
	idle []chan func()
}

// do runs work at once, in a goroutine of its own.
func (c *crew) do(work func()) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		hand := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		hand <- work
		return
	}
	c.mu.Unlock()
	go c.serve(work)
}

func (c *crew) serve(work func()) {
	hand := make(chan func(), 1)
	for {
		work()
		c.mu.Lock()
		if len(c.idle) >= maxIdleHands {
			c.mu.Unlock()
			return
		}
		c.idle = append(c.idle, hand)
		c.mu.Unlock()
		work = <-hand
	}
}
