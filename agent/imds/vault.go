package imds

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// vaultBytes is the most a document may have; the service's are under 2 KiB.
const vaultBytes = 16 << 10

// vault holds the document where neither Go's heap nor a socket's buffers make copies of it: in the pages of a memory file,
// which are written in place and handed to sockets by reference (sendfile). It has two halves, so that an answer under way
// stays whole when the next document comes.
type vault struct {
	mu     sync.RWMutex
	file   int
	memory []byte
	// Where the present document lies; length 0: there is none.
	offset, length int
}

var errNone = errors.New("there are no credentials")

func newVault() (*vault, error) {
	file, err := unix.MemfdCreate("credentials", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	if err := unix.Ftruncate(file, 2*vaultBytes); err != nil {
		return nil, errors.Join(err, unix.Close(file))
	}
	memory, err := unix.Mmap(file, 0, 2*vaultBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(err, unix.Close(file))
	}
	if err := errors.Join(unix.Mlock(memory), unix.Madvise(memory, unix.MADV_DONTDUMP)); err != nil {
		return nil, errors.Join(err, unix.Munmap(memory), unix.Close(file))
	}
	return &vault{file: file, memory: memory}, nil
}

// put lets write fill the half that is not served, and serves it from then on. After an error nothing has changed.
func (v *vault) put(write func(into []byte) (int, error)) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	offset := 0
	if v.length > 0 && v.offset == 0 {
		offset = vaultBytes
	}
	half := v.memory[offset : offset+vaultBytes : offset+vaultBytes]
	clear(half)
	n, err := write(half[:0])
	if err == nil && n == 0 {
		err = errNone
	}
	if err != nil {
		clear(half)
		return err
	}
	v.offset, v.length = offset, n
	return nil
}

// clear leaves zeros; an answer the app has not read yet becomes zeros too.
func (v *vault) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.memory)
	v.length = 0
}

func (v *vault) isEmpty() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.length == 0
}

// send hands the document's length to head, then the document to a socket, piece by piece as send takes it. What head
// promised is what is sent, whatever comes meanwhile.
func (v *vault) send(head func(length int) error, send func(file int, offset *int64, length int) error) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.length == 0 {
		return errNone
	}
	if err := head(v.length); err != nil {
		return err
	}
	offset := int64(v.offset)
	return send(v.file, &offset, v.length)
}

// close gives the memory back; for tests.
func (v *vault) close() error {
	clear(v.memory)
	return errors.Join(unix.Munmap(v.memory), unix.Close(v.file))
}
