package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"rekindle/gateway/flowlog"
)

// Hub is all guests of a host and the sockets their machines connect to.
type Hub struct {
	ctx     context.Context
	cancel  context.CancelFunc
	dir     string
	log     *flowlog.Log
	outside Outside
	ids     *regexp.Regexp

	mu       sync.Mutex
	attached map[string]*attachment
	group    sync.WaitGroup
}

type attachment struct {
	guest    *Guest
	listener *net.UnixListener
	socket   string
}

const socketName = "net.sock"

// NewHub serves guests below dir until Close. It leaves folders of an earlier gateway alone: machines that still run have them
// mounted and connect anew as soon as their guest is attached.
func NewHub(dir string, log *flowlog.Log, outside Outside) (*Hub, error) {
	dir = filepath.Join(dir, "net")
	// Machines run under uids of their own, but see only their folder, in a mount of their own.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the guests' folder: %w", err)
	}
	outside.crew = &crew{}
	ctx, cancel := context.WithCancel(context.Background())
	return &Hub{
		ctx:      ctx,
		cancel:   cancel,
		dir:      dir,
		log:      log,
		outside:  outside,
		ids:      regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`),
		attached: make(map[string]*attachment),
	}, nil
}

// Attach makes a guest, or gives one that is there another policy, limits and labels. It returns the path of its socket.
func (h *Hub) Attach(id string, config Config) (string, error) {
	if err := h.checkID(id); err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return "", errors.New("the gateway is ending")
	}
	if known := h.attached[id]; known != nil {
		return known.socket, known.guest.Configure(config)
	}
	made, err := h.make(id, config)
	if err != nil {
		return "", err
	}
	h.attached[id] = made
	h.group.Go(func() { h.serve(made) })
	return made.socket, nil
}

func (h *Hub) make(id string, config Config) (_ *attachment, err error) {
	if err := config.Limits.Check(); err != nil {
		return nil, err
	}
	folder := filepath.Join(h.dir, id)
	listener, err := listen(folder)
	if err != nil {
		return nil, err
	}
	log, err := h.log.Attach(id, config.Labels)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("cannot log what the guest does: %w", err)
	}
	guest, err := New(id, h.outside, log, config)
	if err != nil {
		_ = listener.Close()
		log.Detach()
		return nil, err
	}
	return &attachment{guest: guest, listener: listener, socket: filepath.Join(folder, socketName)}, nil
}

// listen makes a guest's folder, if it isn't there, and a socket in it that the machine's uid may connect to.
func listen(folder string) (*net.UnixListener, error) {
	if err := os.MkdirAll(folder, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the guest's folder: %w", err)
	}
	// The umask had a say.
	if err := os.Chmod(folder, 0o711); err != nil {
		return nil, fmt.Errorf("cannot open the guest's folder to its machine: %w", err)
	}
	opened, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot open the guest's folder: %w", err)
	}
	defer func() { _ = opened.Close() }()
	// A socket's address has room for 107 bytes, a path doesn't have to fit in that.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", opened.Fd(), socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the socket of an earlier gateway: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the guest's machine: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o666); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("cannot open the guest's socket to its machine: %w", err)
	}
	return listener, nil
}

// serve takes one machine after the other: a new one replaces the one before.
func (h *Hub) serve(a *attachment) {
	for {
		socket, err := a.listener.AcceptUnix()
		if err != nil {
			return
		}
		h.group.Go(func() {
			if err := a.guest.Connected(h.ctx, socket); err != nil {
				a.guest.logger.Warn("cut off", "error", err)
			}
		})
	}
}

// Detach cuts a guest off and removes its folder, also one of an earlier gateway.
func (h *Hub) Detach(id string) error {
	if err := h.checkID(id); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.attached[id]; a != nil {
		delete(h.attached, id)
		_ = a.listener.Close()
		a.guest.Close()
	}
	if err := os.RemoveAll(filepath.Join(h.dir, id)); err != nil {
		return fmt.Errorf("cannot remove the guest's folder: %w", err)
	}
	return nil
}

// Cut resets all flows of a guest.
func (h *Hub) Cut(id string) error {
	guest, err := h.find(id)
	if err != nil {
		return err
	}
	guest.Cut()
	return nil
}

// Stats of one guest.
func (h *Hub) Stats(id string) (Stats, error) {
	guest, err := h.find(id)
	if err != nil {
		return Stats{}, err
	}
	return guest.Stats(), nil
}

// Guests are the ids of those attached, sorted.
func (h *Hub) Guests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]string, 0, len(h.attached))
	for id := range h.attached {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Close cuts all guests off. Their folders stay: the next gateway's guests find their machines through them.
func (h *Hub) Close() {
	h.cancel()
	h.mu.Lock()
	for id, a := range h.attached {
		delete(h.attached, id)
		_ = a.listener.Close()
		a.guest.Close()
	}
	h.mu.Unlock()
	h.group.Wait()
}

func (h *Hub) find(id string) (*Guest, error) {
	if err := h.checkID(id); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.attached[id]; a != nil {
		return a.guest, nil
	}
	return nil, fmt.Errorf("guest %s is not attached; attach it first", id)
}

func (h *Hub) checkID(id string) error {
	if !h.ids.MatchString(id) {
		return fmt.Errorf("%.150q is no guest id; use 1 to 128 letters, digits, '.', '_' and '-', the first a letter or digit", id)
	}
	return nil
}
