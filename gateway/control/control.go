// Package control is the gateway's side of its control socket (spec/gateway-protocol.md §3): one JSON object a line each way.
//
// Invariants: only the socket's owner (and root) can connect; a client that sends nonsense, or reads no answers, harms
// nobody but itself; every request gets one answer.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"rekindle/gateway/flowlog"
	"rekindle/gateway/guest"
	"rekindle/gateway/limits"
	"rekindle/gateway/policy"
)

const (
	// Generation of the protocol.
	Generation = 1
	// maxLineBytes is the protocol's, without the line's end.
	maxLineBytes = 1 << 20
	// maxClients at once: one server, and somebody who looks.
	maxClients = 32
	// answerWithin is how long a client may not read its answers.
	answerWithin = 30 * time.Second
)

// Guests is what is controlled.
type Guests interface {
	Attach(id string, config guest.Config) (socket string, err error)
	Detach(id string) error
	Cut(id string) error
	Stats(id string) (guest.Stats, error)
	Guests() []string
}

// Server answers on a control socket.
type Server struct {
	Guests  Guests
	Host    *policy.Host
	Version string
	Logger  *slog.Logger
}

type request struct {
	ID     json.RawMessage `json:"id"`
	Op     string          `json:"op"`
	Guest  string          `json:"guest"`
	Policy json.RawMessage `json:"policy"`
	Limits json.RawMessage `json:"limits"`
	Labels json.RawMessage `json:"labels"`
}

type answer struct {
	ID     json.RawMessage `json:"id"`
	Result any             `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

type hello struct {
	Generation int      `json:"generation"`
	Version    string   `json:"version"`
	PID        int      `json:"pid"`
	Guests     []string `json:"guests"`
}

type attached struct {
	Socket string `json:"socket"`
}

type nothing struct{}

// Serve answers clients until ctx ends or the listener breaks.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, maxClients)
	for {
		client, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the control socket broke: %w", err)
		}
		select {
		case slots <- struct{}{}:
			group.Go(func() {
				defer func() { <-slots }()
				s.talk(ctx, client)
			})
		default:
			s.reply(client, answer{Error: fmt.Sprintf("too many clients; %d are connected already", maxClients)})
			_ = client.Close()
		}
	}
}

func (s *Server) talk(ctx context.Context, client net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	defer func() { _ = client.Close() }()
	lines := bufio.NewScanner(client)
	lines.Buffer(make([]byte, 0, 4096), maxLineBytes+1)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if !s.reply(client, s.answer(lines.Bytes())) {
			return
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		s.reply(client, answer{Error: fmt.Sprintf("a line has at most %d bytes", maxLineBytes)})
	}
}

func (s *Server) reply(client net.Conn, a answer) bool {
	if a.ID == nil {
		a.ID = json.RawMessage("null")
	}
	line, err := json.Marshal(a)
	if err != nil {
		s.Logger.Error("an answer could not be written", "error", err)
		return false
	}
	_ = client.SetWriteDeadline(time.Now().Add(answerWithin))
	_, err = client.Write(append(line, '\n'))
	return err == nil
}

func (s *Server) answer(line []byte) answer {
	var r request
	if err := strictly(line, &r); err != nil {
		return answer{ID: idOf(line), Error: "this is no request: " + err.Error()}
	}
	result, err := s.do(r)
	if err != nil {
		return answer{ID: r.ID, Error: err.Error()}
	}
	return answer{ID: r.ID, Result: result}
}

// idOf lets also a request that can't be read be answered by its id.
func idOf(line []byte) json.RawMessage {
	var only struct {
		ID json.RawMessage `json:"id"`
	}
	_ = json.Unmarshal(line, &only)
	return only.ID
}

func (s *Server) do(r request) (any, error) {
	switch r.Op {
	case "hello":
		return hello{Generation: Generation, Version: s.Version, PID: os.Getpid(), Guests: s.Guests.Guests()}, nil
	case "attach":
		return s.attach(r)
	case "detach":
		return nothing{}, s.Guests.Detach(r.Guest)
	case "cut":
		return nothing{}, s.Guests.Cut(r.Guest)
	case "stats":
		return s.Guests.Stats(r.Guest)
	}
	return nil, fmt.Errorf("%.40q is no operation; there are hello, attach, detach, cut and stats", r.Op)
}

func (s *Server) attach(r request) (any, error) {
	if r.Policy == nil {
		return nil, errors.New("attach needs a policy")
	}
	var config guest.Config
	var err error
	if config.Policy, err = policy.Parse(r.Policy, s.Host); err != nil {
		return nil, err
	}
	if err := optional(r.Limits, &config.Limits, "limits"); err != nil {
		return nil, err
	}
	if err := optional(r.Labels, &config.Labels, "labels"); err != nil {
		return nil, err
	}
	socket, err := s.Guests.Attach(r.Guest, config)
	return attached{Socket: socket}, err
}

func optional[T limits.Limits | flowlog.Labels](raw json.RawMessage, into *T, what string) error {
	if raw == nil {
		return nil
	}
	if err := strictly(raw, into); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// strictly refuses members it doesn't know: a limit that is misspelt would not limit.
func strictly(raw []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("cannot read it: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("cannot read it: something follows the object")
	}
	return nil
}
