package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// serveBackend answers every GET with its `bytes` (none asked: a few), and takes what is sent to it.
func serveBackend() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	block := make([]byte, 128*1024)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, len(block)))
			fmt.Fprintf(w, "%d", n)
			return
		}
		asked, _ := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		if asked == 0 {
			_, _ = io.WriteString(w, "a small answer, as of an API")
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(asked, 10))
		for left := asked; left > 0; {
			n, err := w.Write(block[:min(left, int64(len(block)))])
			if err != nil {
				return
			}
			left -= int64(n)
		}
	})}
	return server.Serve(listener)
}
