package imds

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const document = `{"Code":"Success","SecretAccessKey":"s3cr3t-of-the-test"}`

func newService(t *testing.T) *Service {
	t.Helper()
	service, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.vault.close() })
	return service
}

// push does what the host does.
func push(t *testing.T, service *Service, text string) error {
	t.Helper()
	offered, err := service.Offer(context.Background(), struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = service.Set(context.Background(), sealFor(t, offered.Key, text))
	return err
}

func sealFor(t *testing.T, guestKey []byte, text string) SetRequest {
	t.Helper()
	host, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := ecdh.X25519().NewPublicKey(guestKey)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := host.ECDH(guest)
	if err != nil {
		t.Fatal(err)
	}
	hostKey := host.PublicKey().Bytes()
	key, err := hkdf.Key(sha256.New, shared, append(append([]byte{}, guestKey...), hostKey...), keyInfo, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return SetRequest{Key: hostKey, Sealed: aead.Seal(nil, make([]byte, 12), []byte(text), nil)}
}

// listenLocal serves the service on a port of the loopback.
func listenLocal(t *testing.T, service *Service) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go newServer(service.vault, service.tokens).serve(listener)
	return listener.Addr().String()
}

type call struct {
	method, path string
	headers      map[string]string
}

func (c call) send(t *testing.T, address string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequest(c.method, "http://"+address+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range c.headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

func tokenOf(t *testing.T, address string) map[string]string {
	t.Helper()
	status, token, header := call{"PUT", tokenPath, map[string]string{ttlHeader: "60"}}.send(t, address)
	if status != 200 || header.Get(ttlHeader) != "60" || len(token) != 56 {
		t.Fatalf("no token: %d %q %v", status, token, header)
	}
	return map[string]string{tokenHeader: token}
}

func TestTheFlowOfEverySDKGivesTheDocument(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	if err := push(t, service, document); err != nil {
		t.Fatal(err)
	}
	token := tokenOf(t, address)
	for _, path := range []string{rolesPath, rolesPath + "/"} {
		if status, body, _ := (call{"GET", path, token}).send(t, address); status != 200 || body != "execution_role" {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	status, body, header := call{"GET", rolesPath + "/execution_role", token}.send(t, address)
	if status != 200 || body != document || header.Get("Content-Type") != "text/plain" {
		t.Errorf("%d %q %v", status, body, header)
	}
	if status, body, header := (call{"HEAD", rolesPath + "/execution_role", token}).send(t, address); status != 200 || body != "" ||
		header.Get("Content-Length") != fmt.Sprint(len(document)) {
		t.Errorf("HEAD: %d %q %v", status, body, header)
	}
}

func TestEachWrongRequestGetsItsStatus(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	if err := push(t, service, document); err != nil {
		t.Fatal(err)
	}
	good := tokenOf(t, address)[tokenHeader]
	other := newTokens().make(time.Minute)
	expired := service.tokens.make(-time.Second)
	changed := "A" + good[1:]
	if changed == good {
		changed = "B" + good[1:]
	}
	ttl := func(text string) map[string]string { return map[string]string{ttlHeader: text} }
	with := func(token string) map[string]string { return map[string]string{tokenHeader: token} }
	for _, c := range []struct {
		call
		status int
	}{
		{call{"PUT", tokenPath, nil}, 400},
		{call{"PUT", tokenPath, ttl("")}, 400},
		{call{"PUT", tokenPath, ttl("0")}, 400},
		{call{"PUT", tokenPath, ttl("-1")}, 400},
		{call{"PUT", tokenPath, ttl("21601")}, 400},
		{call{"PUT", tokenPath, ttl("99999999999999999999")}, 400},
		{call{"PUT", tokenPath, ttl("1.5")}, 400},
		{call{"PUT", tokenPath, ttl("six")}, 400},
		{call{"PUT", tokenPath, ttl("1")}, 200},
		{call{"PUT", tokenPath, ttl("21600")}, 200},
		{call{"PUT", tokenPath, map[string]string{ttlHeader: "60", "X-Forwarded-For": "10.0.0.1"}}, 403},
		{call{"PUT", rolesPath, ttl("60")}, 405},
		{call{"GET", tokenPath, with(good)}, 405},
		{call{"POST", tokenPath, ttl("60")}, 405},
		{call{"DELETE", rolesPath, with(good)}, 405},
		{call{"OPTIONS", rolesPath, with(good)}, 405},
		{call{"GET", rolesPath + "/", nil}, 401},
		{call{"GET", rolesPath + "/execution_role", nil}, 401},
		{call{"GET", "/latest/meta-data/", nil}, 401},
		{call{"GET", rolesPath + "/", with(other)}, 401},
		{call{"GET", rolesPath + "/", with(expired)}, 401},
		{call{"GET", rolesPath + "/", with(changed)}, 401},
		{call{"GET", rolesPath + "/", with(good[:40])}, 401},
		{call{"GET", rolesPath + "/", with("")}, 401},
		{call{"GET", rolesPath + "/", map[string]string{tokenHeader: good, "X-Forwarded-For": ""}}, 403},
		{call{"GET", rolesPath + "/another_role", with(good)}, 404},
		{call{"GET", rolesPath + "/execution_role/", with(good)}, 404},
		{call{"GET", "/latest/meta-data/", with(good)}, 404},
		{call{"GET", "/latest/meta-data/instance-id", with(good)}, 404},
		{call{"GET", "/latest/meta-data/iam/security-credentials-extended/", with(good)}, 404},
		{call{"GET", "/", with(good)}, 404},
	} {
		if status, body, _ := c.send(t, address); status != c.status || strings.Contains(body, "s3cr3t") {
			t.Errorf("%s %s %v: %d %q, want %d", c.method, c.path, c.headers, status, body, c.status)
		}
	}
}

func TestMalformedRequestsAreRefusedAndTheConnectionEnds(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	for _, text := range []string{
		"\r\n\r\n",
		"GET\r\n\r\n",
		"GET / HTTP/2.0\r\n\r\n",
		"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"GET / HTTP/1.1\r\nname : value\r\n\r\n",
		"GET / HTTP/1.1\r\n" + tokenHeader + ": a\r\n" + tokenHeader + ": b\r\n\r\n",
		"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		"PUT / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
		"PUT / HTTP/1.1\r\ncontent-length: 99999\r\n\r\n",
		"GET /" + strings.Repeat("a", maxHeadBytes) + " HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", 2000) + "\r\n",
	} {
		conn, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		// A refusal may come before all was written.
		_, _ = conn.Write([]byte(text))
		_ = conn.(*net.TCPConn).CloseWrite()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if line != "" && !strings.HasPrefix(line, "HTTP/1.1 400 ") {
			t.Errorf("%.60q: %q", text, line)
		}
		_ = conn.Close()
	}
}

func TestSeveralRequestsMayShareAConnection(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := "PUT " + tokenPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" + ttlHeader + ": 5\r\n\r\nabc"
	if _, err := conn.Write([]byte(request + request)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for range 2 {
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != 200 {
			t.Fatal(response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}

func TestWithoutCredentialsThereIsNoRole(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	for _, path := range []string{rolesPath, rolesPath + "/", rolesPath + "/execution_role"} {
		if status, _, _ := (call{"GET", path, tokenOf(t, address)}).send(t, address); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestClearingLeavesNothingBehind(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	for range 3 {
		if err := push(t, service, document); err != nil {
			t.Fatal(err)
		}
	}
	before := tokenOf(t, address)
	if !bytes.Contains(service.vault.memory, []byte("s3cr3t")) {
		t.Fatal("the vault does not hold what was pushed")
	}
	if _, err := service.Clear(context.Background(), struct{}{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(service.vault.memory, make([]byte, 2*vaultBytes)) {
		t.Error("the vault is not empty")
	}
	if status, _, _ := (call{"GET", rolesPath + "/", before}).send(t, address); status != 401 {
		t.Errorf("a token of before gives %d", status)
	}
	if status, _, _ := (call{"GET", rolesPath + "/", tokenOf(t, address)}).send(t, address); status != 404 {
		t.Errorf("the role is still listed: %d", status)
	}
}

func TestAPushReplacesTheLastOne(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	for i := range 4 {
		text := fmt.Sprintf("document %d %s", i, strings.Repeat("x", 100*(4-i)))
		if err := push(t, service, text); err != nil {
			t.Fatal(err)
		}
		if _, body, _ := (call{"GET", rolesPath + "/execution_role", tokenOf(t, address)}).send(t, address); body != text {
			t.Errorf("%d: %q", i, body)
		}
	}
}

func TestAKeyIsGoodForOnePush(t *testing.T) {
	service := newService(t)
	ctx := context.Background()
	first, err := service.Offer(ctx, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	sealed := sealFor(t, first.Key, document)
	if _, err := service.Set(ctx, sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Set(ctx, sealed); err == nil {
		t.Error("the same push was taken twice")
	}
	second, err := service.Offer(ctx, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first.Key, second.Key) {
		t.Error("the key was offered again")
	}
	if _, err := service.Set(ctx, sealed); err == nil {
		t.Error("a push for another key was taken")
	}
	if _, err := service.Set(ctx, sealFor(t, second.Key, document)); err == nil {
		t.Error("a key was good for a second try")
	}
}

func TestWhatCannotBeOpenedChangesNothing(t *testing.T) {
	service := newService(t)
	ctx := context.Background()
	if err := push(t, service, document); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*SetRequest){
		"a changed byte":     func(r *SetRequest) { r.Sealed[0] ^= 1 },
		"nothing":            func(r *SetRequest) { r.Sealed = nil },
		"the tag alone":      func(r *SetRequest) { r.Sealed = r.Sealed[:sealOverhead] },
		"too much":           func(r *SetRequest) { r.Sealed = make([]byte, vaultBytes+sealOverhead+1) },
		"no key":             func(r *SetRequest) { r.Key = nil },
		"a short key":        func(r *SetRequest) { r.Key = r.Key[:31] },
		"a key of low order": func(r *SetRequest) { r.Key = make([]byte, 32) },
	} {
		offered, err := service.Offer(ctx, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		request := sealFor(t, offered.Key, document+"2")
		spoil(&request)
		if _, err := service.Set(ctx, request); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	address := listenLocal(t, service)
	if _, body, _ := (call{"GET", rolesPath + "/execution_role", tokenOf(t, address)}).send(t, address); body != document {
		t.Errorf("now it is %q", body)
	}
}

func TestTheLargestDocumentIsServed(t *testing.T) {
	service := newService(t)
	address := listenLocal(t, service)
	text := strings.Repeat("0123456789abcdef", vaultBytes/16)
	if err := push(t, service, text); err != nil {
		t.Fatal(err)
	}
	if _, body, _ := (call{"GET", rolesPath + "/execution_role", tokenOf(t, address)}).send(t, address); body != text {
		t.Errorf("%d bytes came", len(body))
	}
}

func TestNoCopyOfTheDocumentOrItsKeyIsOnTheHeap(t *testing.T) {
	if !erases {
		t.Skip("built without GOEXPERIMENT=runtimesecret")
	}
	service := newService(t)
	address := listenLocal(t, service)
	// The test itself must leave no copy either: it makes the text in pieces, inside an erased call.
	offered, err := service.Offer(context.Background(), struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	var sealed SetRequest
	erased(func() {
		sealed = clone(sealFor(t, offered.Key, strings.Repeat("Zq7", 3)+"-heap-canary-"+strings.Repeat("w9X", 3)))
	})
	if _, err := service.Set(context.Background(), sealed); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/execution_role HTTP/1.1\r\n%s: %s\r\n\r\n", rolesPath, tokenHeader, service.tokens.make(time.Minute))
	status := make([]byte, 12)
	if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 200" {
		t.Fatal(string(status), err)
	}
	if _, err := service.Clear(context.Background(), struct{}{}); err != nil {
		t.Fatal(err)
	}
	needle := []byte("-heap-")
	needle = append(append(needle, "canary-"...), "w9Xw9X"...)
	if at := findInHeap(t, needle); at > 1 {
		t.Errorf("%d copies are in this process besides the one looked for", at-1)
	}
}

func clone(r SetRequest) SetRequest {
	return SetRequest{Key: bytes.Clone(r.Key), Sealed: bytes.Clone(r.Sealed)}
}

// findInHeap counts occurrences in the private memory of this process, the stack and Go's heap among it.
func findInHeap(t *testing.T, needle []byte) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	// Made after the list was read, so that what is read into it is not found in it.
	const size = 1 << 20
	buffer, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buffer) }()
	count := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || mode != "rw-p" {
			continue
		}
		for at := from; at < to; at += size {
			n, _ := memory.ReadAt(buffer[:min(size, to-at)], at)
			count += bytes.Count(buffer[:n], needle)
		}
	}
	return count
}
