package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// phases is told what took how long, for the end of the build's log. Safe for use by several goroutines.
type phases struct {
	mu   sync.Mutex
	took []string
}

// of does the work and notes its time under the name, whatever came of it.
func (p *phases) of(name string, work func() error) error {
	began := time.Now()
	err := work()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, fmt.Sprintf("%s %.1f s", name, time.Since(began).Seconds()))
	return err
}

// String lists the phases in the order of their ends.
func (p *phases) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.took, ", ")
}
