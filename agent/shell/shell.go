// Package shell carries terminals over the link: bytes both ways, window sizes, the exit code.
//
// A terminal belongs to its stream. When the stream is reset, or its session over, the processes of the terminal's own
// session are ended; so are those that a shell leaves behind when it ends by itself.
package shell

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"sync"
	"time"

	"rekindle/agent/link"
)

// Kinds of records, either way: u8 kind, u32 length, bytes.
const (
	kindBytes  = 1 // what is typed, and what is shown
	kindExit   = 2 // to the host, once, at the end: u32 exit code
	kindResize = 3 // to the shell: u16 columns, u16 rows
	recordHead = 5
	// maxRecord bounds what is typed at a time.
	maxRecord   = 64 << 10
	outputBytes = 16 << 10
	// What the shell printed last is read for so long; a process that left the session may keep the terminal open.
	drainLimit = 200 * time.Millisecond
	// MaxShells bounds the terminals of a guest at a time.
	MaxShells = 16
)

// Request opens a shell.
type Request struct {
	Size
}

// Stream is what a shell needs of the link's.
type Stream interface {
	Accept() error
	Write([]byte) (int, error)
	End()
	Receive(spare []byte) ([]byte, error)
	Consumed(n int)
}

// Shells serves terminals that Open makes.
type Shells struct {
	Open func(ctx context.Context, size Size) (*Terminal, error)

	mu    sync.Mutex
	count int
}

// Serve opens a shell and returns when it, and every process of its session, is gone.
func (s *Shells) Serve(ctx context.Context, stream Stream, request Request) error {
	if !s.enter() {
		return link.Errorf(link.CodeFailed, "%d shells are open already", MaxShells)
	}
	defer s.leave()
	terminal, err := s.Open(ctx, request.Size)
	if err != nil {
		return err
	}
	// The stream's end must not wait for the shell's.
	var once sync.Once
	closeTerminal := func() {
		once.Do(func() {
			if err := terminal.Close(); err != nil {
				log.Printf("shell: %v", err)
			}
		})
	}
	defer closeTerminal()
	stop := context.AfterFunc(ctx, closeTerminal)
	defer stop()
	if err := stream.Accept(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- typed(stream, terminal) }()
	go func() {
		<-terminal.Leader.Done()
		terminal.HangUp()
		_ = terminal.Master.SetReadDeadline(time.Now().Add(drainLimit))
	}()
	if err := show(stream, terminal); err != nil {
		return err
	}
	select {
	case <-terminal.Leader.Done():
	case err := <-failed:
		// The host typed what is no record, or is gone.
		if err != nil {
			return err
		}
		<-terminal.Leader.Done()
	}
	closeTerminal()
	record := binary.BigEndian.AppendUint32(head(kindExit, 4), uint32(terminal.Leader.ExitCode()))
	if _, err := stream.Write(record); err != nil {
		return err
	}
	stream.End()
	return nil
}

func (s *Shells) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= MaxShells {
		return false
	}
	s.count++
	return true
}

func (s *Shells) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
}

// show passes on what the terminal prints until nobody has it open any more.
func show(stream Stream, terminal *Terminal) error {
	buffer := make([]byte, recordHead+outputBytes)
	for {
		n, err := terminal.Master.Read(buffer[recordHead:])
		if n > 0 {
			copy(buffer, head(kindBytes, n))
			if _, err := stream.Write(buffer[:recordHead+n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // EIO: the last process that had it open closed it; or nothing more within the limit
		}
	}
}

// typed obeys the host's records. The host's END ends nothing: the shell may still have something to print.
func typed(stream Stream, terminal *Terminal) error {
	var pending, spare []byte
	for {
		chunk, err := stream.Receive(spare)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		pending = append(pending, chunk...)
		rest, err := obey(pending, terminal)
		if errors.Is(err, errGone) {
			return nil
		}
		if err != nil {
			_ = terminal.Master.Close()
			return err
		}
		stream.Consumed(len(chunk))
		spare = chunk
		pending = append(pending[:0], rest...)
	}
}

// errGone: nobody has the terminal open any more, so what is still typed is of no use.
var errGone = errors.New("the terminal is gone")

// obey does what the whole records say and returns what is left.
func obey(records []byte, terminal *Terminal) ([]byte, error) {
	for len(records) >= recordHead {
		kind := records[0]
		length := int(binary.BigEndian.Uint32(records[1:]))
		if length > maxRecord {
			return nil, link.Errorf(link.CodeInvalid, "a record of %d bytes", length)
		}
		if len(records) < recordHead+length {
			break
		}
		body := records[recordHead : recordHead+length]
		records = records[recordHead+length:]
		switch {
		case kind == kindBytes:
			if _, err := terminal.Master.Write(body); err != nil {
				return nil, errGone
			}
		case kind == kindResize && length == 4:
			size := Size{Cols: binary.BigEndian.Uint16(body), Rows: binary.BigEndian.Uint16(body[2:])}
			if err := terminal.Resize(size); err != nil {
				return nil, errGone
			}
		default:
			return nil, link.Errorf(link.CodeInvalid, "a record of kind %d with %d bytes", kind, length)
		}
	}
	return records, nil
}

func head(kind byte, length int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(length))
}
