// Package flowlog writes what the guests did: one JSON object a line, a file per guest (spec/gateway-protocol.md §4).
//
// Invariants: the data path never waits for a disk, records go through a bounded queue; what is not written (too fast, queue
// full, disk full) is counted, and the count is written as soon as something can be.
package flowlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultFileBytes    = 4 << 20
	defaultTotalBytes   = 256 << 20
	defaultPerSecond    = 200
	defaultQueueRecords = 8192
	flushInterval       = time.Second
)

// Config: zero values give the defaults of the protocol.
type Config struct {
	Dir          string
	FileBytes    int64
	TotalBytes   int64
	PerSecond    int
	QueueRecords int
	Now          func() time.Time
}

// Log is the writer of all guests.
type Log struct {
	config Config
	queue  chan line
	stop   chan struct{}
	done   chan struct{}
	ending sync.Once
	files  *files

	mu     sync.Mutex
	guests map[string]*Guest

	written, suppressed, lost atomic.Int64
	lastError                 atomic.Pointer[error]
}

// line is a record on its way; guest gets it back when it can't be written.
type line struct {
	guest *Guest
	text  []byte
}

// Stats counts over all guests since Open.
type Stats struct {
	Written int64
	// Suppressed records were beyond a guest's rate.
	Suppressed int64
	// Lost records met a full queue or a failing disk.
	Lost int64
	// LastError is the disk's last complaint, nil when the last write went well.
	LastError error
}

// Open makes the folder if need be and starts the writer; Close ends it.
func Open(config Config) (*Log, error) {
	ticker := time.NewTicker(flushInterval)
	log, err := open(config, ticker.C)
	if err != nil {
		ticker.Stop()
		return nil, err
	}
	go func() {
		<-log.done
		ticker.Stop()
	}()
	return log, nil
}

func open(config Config, ticks <-chan time.Time) (*Log, error) {
	setDefault(&config.FileBytes, defaultFileBytes)
	setDefault(&config.TotalBytes, defaultTotalBytes)
	setDefault(&config.PerSecond, defaultPerSecond)
	setDefault(&config.QueueRecords, defaultQueueRecords)
	if config.Now == nil {
		config.Now = time.Now
	}
	if err := os.MkdirAll(config.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("cannot make the flow log's folder: %w", err)
	}
	log := &Log{
		config: config, queue: make(chan line, config.QueueRecords), stop: make(chan struct{}), done: make(chan struct{}),
		guests: map[string]*Guest{},
	}
	log.files = &files{dir: config.Dir, fileBytes: config.FileBytes, totalBytes: config.TotalBytes, attached: log.attached, pending: map[string]*pending{}}
	if err := log.files.measure(); err != nil {
		return nil, err
	}
	go log.write(ticks)
	return log, nil
}

func setDefault[T int | int64](value *T, standard T) {
	if *value == 0 {
		*value = standard
	}
}

// Attach begins (or goes on with) a guest's file. Fails for an id the protocol doesn't allow. For a guest that is attached
// it gives the same again, with the new labels.
func (l *Log) Attach(guest string, labels Labels) (*Guest, error) {
	if err := checkGuest(guest); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g, known := l.guests[guest]
	if !known {
		g = &Guest{log: l, id: guest}
		l.guests[guest] = g
	}
	g.SetLabels(labels)
	return g, nil
}

func (l *Log) attached(guest string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, attached := l.guests[guest]
	return attached
}

func (l *Log) Stats() Stats {
	stats := Stats{Written: l.written.Load(), Suppressed: l.suppressed.Load(), Lost: l.lost.Load()}
	if err := l.lastError.Load(); err != nil {
		stats.LastError = *err
	}
	return stats
}

// Close flushes what is queued, until ctx ends. Records that come later are lost.
func (l *Log) Close(ctx context.Context) error {
	l.ending.Do(func() { close(l.stop) })
	select {
	case <-l.done:
		return l.Stats().LastError
	case <-ctx.Done():
		return fmt.Errorf("the flow log could not be flushed: %w", ctx.Err())
	}
}

// offer never waits.
func (l *Log) offer(one line) bool {
	select {
	case <-l.stop:
		return false
	default:
	}
	select {
	case l.queue <- one:
		return true
	default:
		return false
	}
}

// write is the writer: the only one that touches files.
func (l *Log) write(ticks <-chan time.Time) {
	defer close(l.done)
	for {
		select {
		case one := <-l.queue:
			l.take(one)
		case <-ticks:
			l.flush()
		case <-l.stop:
			l.flush()
			return
		}
	}
}

func (l *Log) take(one line) {
	if l.files.add(one) {
		l.settle(l.files.flush())
	}
}

// flush brings to disk what came before it was called.
func (l *Log) flush() {
	l.mu.Lock()
	guests := make([]*Guest, 0, len(l.guests))
	for _, guest := range l.guests {
		guests = append(guests, guest)
	}
	l.mu.Unlock()
	for range len(l.queue) {
		l.take(<-l.queue)
	}
	for _, guest := range guests {
		for _, text := range guest.counts() {
			l.take(line{guest, text})
		}
	}
	l.settle(l.files.flush())
}

// settle counts what a flush wrote, and gives the guests back what it didn't.
func (l *Log) settle(written int64, failed []line, err error) {
	l.written.Add(written)
	for _, one := range failed {
		l.lost.Add(1)
		one.guest.missed(1)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("the flow log can't be written: %w", err)
		l.lastError.Store(&err)
	case written > 0:
		l.lastError.Store(nil)
	}
}

var errGuest = errors.New("a guest's id has letters, digits, '.', '_' and '-' (128 at most), begins with a letter or digit and doesn't end in '.1'")

// checkGuest also refuses ids whose file would be another's rotated one.
func checkGuest(guest string) error {
	if len(guest) == 0 || len(guest) > 128 || !isAlphanumeric(guest[0]) || len(guest) >= 2 && guest[len(guest)-2:] == ".1" {
		return errGuest
	}
	for i := range len(guest) {
		if c := guest[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return errGuest
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
