// A server with a thousand goroutines that never rest, and Go's defaults: its listener asks the
// kernel for Multipath TCP.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const goroutines = 1000

var (
	values sync.Map
	ticks  atomic.Int64
)

func tick(period time.Duration) {
	for range time.Tick(period) {
		ticks.Add(1)
	}
}

func serve(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		var verb, key, value string
		fmt.Sscan(lines.Text(), &verb, &key, &value)
		switch verb {
		case "put":
			values.Store(key, value)
			fmt.Fprintln(connection, "ok")
		case "get":
			found, _ := values.Load(key)
			fmt.Fprintln(connection, found)
		}
	}
}

func main() {
	for number := range goroutines {
		go tick(time.Duration(10+number%90) * time.Millisecond)
	}
	listener, err := net.Listen("tcp", ":7000")
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}
