package link

import "time"

// Port is the byte channel a Server speaks over. It outlives sessions: the host may come and go without a Port ever
// ending, and neither shows here, because a hang-up seen in the guest is no reliable boundary.
type Port interface {
	// Read waits for bytes, at most limit when limit is above zero. It returns 0 and no error when there are none, be it
	// that the limit passed or that the host is away. An error ends the server.
	Read(buffer []byte, limit time.Duration) (int, error)
	// Write hands over what it can and returns how much that was. It waits while nothing can be handed over, until
	// Interrupt is called, and then returns 0 and no error.
	Write(bytes []byte) (int, error)
	// Interrupt makes a Write that waits return; one that comes next may return early too. It never blocks.
	Interrupt()
}
