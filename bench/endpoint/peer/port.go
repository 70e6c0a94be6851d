package main

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// port makes a listening unix socket look like the guest's virtio-serial port: one client at a time, who may leave and
// come back without anybody on this side being told.
type port struct {
	mu     sync.Mutex
	change sync.Cond
	client net.Conn
	closed error
	poked  bool
}

func newPort(listener net.Listener) *port {
	p := &port{}
	p.change.L = &p.mu
	go p.accept(listener)
	return p
}

func (p *port) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		p.mu.Lock()
		if p.client != nil {
			_ = p.client.Close()
		}
		p.client, p.closed = client, err
		if err != nil {
			p.client = nil
		}
		p.change.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Read implements link.Port.
func (p *port) Read(buffer []byte, limit time.Duration) (int, error) {
	p.mu.Lock()
	for p.client == nil && p.closed == nil && limit == 0 {
		p.change.Wait()
	}
	client, err := p.client, p.closed
	p.mu.Unlock()
	if err != nil || client == nil {
		return 0, err
	}
	if limit > 0 {
		_ = client.SetReadDeadline(time.Now().Add(limit))
	}
	n, err := client.Read(buffer)
	if limit > 0 {
		_ = client.SetReadDeadline(time.Time{})
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.lose(client)
	}
	return n, nil
}

// Write implements link.Port.
func (p *port) Write(bytes []byte) (int, error) {
	p.mu.Lock()
	for p.client == nil && p.closed == nil && !p.poked {
		p.change.Wait()
	}
	client, err := p.client, p.closed
	p.poked = false
	p.mu.Unlock()
	if err != nil || client == nil {
		return 0, err
	}
	n, err := client.Write(bytes)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = client.SetWriteDeadline(time.Time{})
	} else if err != nil {
		p.lose(client)
	}
	return n, nil
}

// Interrupt implements link.Port.
func (p *port) Interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poked = true
	p.change.Broadcast()
	if p.client != nil {
		_ = p.client.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (p *port) lose(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = client.Close()
	if p.client == client {
		p.client = nil
	}
}
