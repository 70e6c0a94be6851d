// Command tsc measures the frequency of this machine's time stamp counter and prints it in kHz. Guests are told it on
// their kernel command line, because on a busy host their own calibration can fail for good.
package main

import (
	"fmt"
	"slices"
	"time"
)

const (
	samples  = 7
	interval = 100 * time.Millisecond
)

// rdtsc returns the time stamp counter.
func rdtsc() uint64

func main() {
	kHz := make([]float64, 0, samples)
	for range [samples]struct{}{} {
		kHz = append(kHz, sample())
	}
	slices.Sort(kHz)
	fmt.Printf("%.0f\n", kHz[samples/2])
}

func sample() float64 {
	t0, c0 := now()
	time.Sleep(interval)
	t1, c1 := now()
	return float64(c1-c0) / t1.Sub(t0).Seconds() / 1000
}

// now reads both clocks close to each other: of a few tries the one the scheduler disturbed least.
func now() (time.Time, uint64) {
	var at time.Time
	var counter uint64
	narrowest := ^uint64(0)
	for range [5]struct{}{} {
		before := rdtsc()
		t := time.Now()
		after := rdtsc()
		if after-before < narrowest {
			narrowest, at, counter = after-before, t, before+(after-before)/2
		}
	}
	return at, counter
}
