// Package flowlog writes what the guests did: one JSON object a line, a file per guest (spec/gateway-protocol.md §4).
//
// Invariant: the data path never waits for a disk. Records go through a bounded queue; what doesn't fit is counted.
package flowlog

import (
	"context"
	"net/netip"
	"time"
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

// Labels stand in every record of a guest.
type Labels struct {
	Principal    string `json:"principal"`
	ImageArn     string `json:"imageArn"`
	ImageVersion string `json:"imageVersion"`
}

// Log is the writer of all guests.
type Log struct{}

// Open makes the folder if need be and starts the writer; Close ends it.
func Open(config Config) (*Log, error) { return &Log{}, nil }

// Guest is one guest's records. Safe for concurrent use; its methods never block.
type Guest struct{}

// Attach begins (or goes on with) a guest's file. Fails for an id the protocol doesn't allow.
func (l *Log) Attach(guest string, labels Labels) (*Guest, error) { return &Guest{}, nil }

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

func (l *Log) Stats() Stats { return Stats{} }

// Close flushes what is queued, until ctx ends.
func (l *Log) Close(ctx context.Context) error { return nil }

// Flow is a connection that ended, or was refused.
type Flow struct {
	Protocol string
	To       netip.AddrPort
	Name     string
	Allowed  bool
	Rule     string
	Reason   string
	BytesOut int64
	BytesIn  int64
	Duration time.Duration
}

func (g *Guest) Flow(flow Flow) {}

// Query is a DNS query that was answered, or refused.
type Query struct {
	Name     string
	Type     string
	Allowed  bool
	Rule     string
	Reason   string
	Answers  []netip.Addr
	Duration time.Duration
}

func (g *Guest) Query(query Query) {}

// Drop counts frames that were dropped; they are written once a second per kind.
func (g *Guest) Drop(what string, count int64) {}

// SetLabels changes the labels of the records from now on.
func (g *Guest) SetLabels(labels Labels) {}

// Detach writes what is pending; the file stays until room is needed.
func (g *Guest) Detach() {}
