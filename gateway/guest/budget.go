package guest

import "sync"

const (
	// minBufferBytes is what every connection gets: the longest segment still fits.
	minBufferBytes = 128 << 10
	// guestBufferBytes is shared by a guest's connections, each way; see Budget.
	guestBufferBytes = 24 << 20
)

// Budget bounds memory by giving many connections less each: one may have a quarter of what is left. Safe for concurrent use.
// What the smallest grants take beyond the limit is bounded by the number of connections.
type Budget struct {
	parent *Budget
	mu     sync.Mutex
	left   int
}

// NewBudget is for bytes; parent, if any, is asked too.
func NewBudget(bytes int, parent *Budget) *Budget {
	return &Budget{parent: parent, left: bytes}
}

// take gives at most want and at least minBufferBytes.
func (b *Budget) take(want int) int {
	if b.parent != nil {
		want = b.parent.take(want)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	granted := max(min(want, b.left/4), minBufferBytes)
	b.left -= granted
	if b.parent != nil && granted < want {
		b.parent.give(want - granted)
	}
	return granted
}

func (b *Budget) give(granted int) {
	b.mu.Lock()
	b.left += granted
	b.mu.Unlock()
	if b.parent != nil {
		b.parent.give(granted)
	}
}
