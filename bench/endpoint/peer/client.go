package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

func clientFor(ca string, connections int) (*http.Client, error) {
	transport := &http.Transport{
		MaxIdleConnsPerHost: connections,
		MaxConnsPerHost:     connections,
		DisableCompression:  true,
		WriteBufferSize:     128 * 1024,
		ReadBufferSize:      128 * 1024,
		TLSClientConfig:     &tls.Config{NextProtos: []string{"http/1.1"}},
	}
	if ca != "-" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: transport}, nil
}

func request(method, url, token string, body io.Reader, length int64) (*http.Request, error) {
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = length
	r.Header.Set("X-aws-proxy-auth", token)
	return r, nil
}

// atRate sends requests at fixed instants whatever becomes of those before, and counts latency from the instant: a late
// sender is part of it (no coordinated omission).
func atRate(url, ca, token string, perSecond, connections, seconds int) error {
	client, err := clientFor(ca, connections)
	if err != nil {
		return err
	}
	total := perSecond * seconds
	latencies := make([]time.Duration, total)
	due := make(chan int, total)
	start := time.Now().Add(50 * time.Millisecond)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second / time.Duration(perSecond)) }
	var workers sync.WaitGroup
	failed := make(chan error, connections)
	for range connections {
		workers.Go(func() {
			for i := range due {
				r, err := request(http.MethodGet, url, token, nil, 0)
				if err == nil {
					err = discard(client, r)
				}
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
				latencies[i] = time.Since(at(i))
			}
		})
	}
	for i := range total {
		time.Sleep(time.Until(at(i)))
		due <- i
	}
	close(due)
	workers.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	warm := latencies[total/10:] // connections are made first
	slices.Sort(warm)
	pick := func(share float64) float64 {
		return float64(warm[int(float64(len(warm)-1)*share)].Microseconds()) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"p50Ms": pick(0.5), "p90Ms": pick(0.9), "p99Ms": pick(0.99)})
}

func discard(client *http.Client, r *http.Request) error {
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", response.Status)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{response.Body}, make([]byte, 128*1024))
	return err
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

func transfer(direction, url, ca, token string, bytes int64) error {
	client, err := clientFor(ca, 1)
	if err != nil {
		return err
	}
	warm, err := request(http.MethodGet, url, token, nil, 0)
	if err != nil {
		return err
	}
	if err := discard(client, warm); err != nil {
		return err
	}
	var r *http.Request
	if direction == "down" {
		r, err = request(http.MethodGet, fmt.Sprintf("%s?bytes=%d", url, bytes), token, nil, 0)
	} else {
		r, err = request(http.MethodPost, url, token, io.LimitReader(zeroes{}, bytes), bytes)
	}
	if err != nil {
		return err
	}
	start := time.Now()
	if err := discard(client, r); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"mibPerSecond": float64(bytes) / 1048576 / seconds})
}
