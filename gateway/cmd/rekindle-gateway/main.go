// Command rekindle-gateway is the user-space network of every microVM on a host: spec/gateway-protocol.md.
package main

func main() {}
