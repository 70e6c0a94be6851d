// Package applog keeps the newest output of the app as numbered lines.
package applog

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"
)

const (
	// MaxBytes is how much is kept; older lines are simply missing.
	MaxBytes = 1 << 20
	// MaxLineBytes is where a longer line is cut in two.
	MaxLineBytes = 16 << 10
	// What a line costs beyond its text, so that a million empty ones are bounded too.
	lineOverhead = 48
)

// Line is one line of output without its end.
type Line struct {
	Cursor int64
	At     time.Time
	Stream int // 1 stdout, 2 stderr
	Text   string
}

// Ring is the log. The zero value is empty and ready.
type Ring struct {
	mu      sync.Mutex
	lines   []Line
	first   int // lines[first:] are kept
	size    int
	cursor  int64
	closed  bool
	changed chan struct{}
}

// Add appends a line.
func (r *Ring) Add(stream int, text string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, Line{Cursor: r.cursor, At: at, Stream: stream, Text: text})
	r.cursor++
	r.size += len(text) + lineOverhead
	for r.size > MaxBytes && r.first < len(r.lines)-1 {
		r.size -= len(r.lines[r.first].Text) + lineOverhead
		r.lines[r.first].Text = ""
		r.first++
	}
	if r.first > len(r.lines)/2 && r.first > 64 {
		r.lines = append([]Line(nil), r.lines[r.first:]...)
		r.first = 0
	}
	r.wake()
}

// Close says that nothing more comes; who follows gets to the end.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wake()
}

// From returns up to limit lines from the cursor on, the cursor to go on with, and whether more can ever come.
func (r *Ring) From(cursor int64, limit int) (lines []Line, next int64, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.cursor - int64(len(r.lines)-r.first)
	cursor = min(max(cursor, oldest), r.cursor)
	kept := r.lines[r.first+int(cursor-oldest):]
	kept = kept[:min(len(kept), limit)]
	return append(lines, kept...), cursor + int64(len(kept)), !r.closed || cursor+int64(len(kept)) < r.cursor
}

// Wait waits until there is a line at the cursor, or nothing more can come, or ctx ends.
func (r *Ring) Wait(ctx context.Context, cursor int64) error {
	for {
		r.mu.Lock()
		if r.cursor > cursor || r.closed {
			r.mu.Unlock()
			return nil
		}
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Ring) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Copy adds what comes from the reader line by line until it ends.
func (r *Ring) Copy(stream int, from io.Reader) {
	buffer := make([]byte, MaxLineBytes)
	held := 0
	for {
		n, err := from.Read(buffer[held:])
		held += n
		used := 0
		for {
			end := bytes.IndexByte(buffer[used:held], '\n')
			if end < 0 {
				break
			}
			r.Add(stream, string(bytes.TrimSuffix(buffer[used:used+end], []byte{'\r'})), time.Now())
			used += end + 1
		}
		held = copy(buffer, buffer[used:held])
		if held == len(buffer) || err != nil && held > 0 {
			r.Add(stream, string(buffer[:held]), time.Now())
			held = 0
		}
		if err != nil {
			return
		}
	}
}
