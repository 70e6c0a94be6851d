package rpmdb

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// What a header, a cell or a pointer is most likely harmed by.
var harmful = []byte{0, 1, 2, 0x7f, 0x80, 0xff}

func TestNothingInADatabaseMakesReadingItPanicOrEndless(t *testing.T) {
	database, log := fixture(t, "rpmdb.sqlite"), fixture(t, "rpmdb.sqlite-wal")
	small := made(512, interior(512, 3, 4), leaf(512, row(header("one", "1", "2", "noarch"))), leaf(512, row(header("two", "1", "2", "noarch"))))
	for name, of := range map[string]struct {
		database, log []byte
		times         int
	}{
		"SQLite":         {database, nil, 300},
		"SQLite and log": {database, log, 100},
		"small SQLite":   {small, nil, 5000},
		"Berkeley DB":    {fixture(t, "Packages"), nil, 500},
		"rpm's own":      {inSlots(t, database), nil, 500},
	} {
		for seed := range uint64(of.times) {
			random := rand.New(rand.NewPCG(seed, 1))
			found, missed := read(mutated(random, of.database), mutated(random, of.log))
			if len(found)+len(missed) > maxRows+1 {
				t.Errorf("%s, seed %d: %d packages, %d misses", name, seed, len(found), len(missed))
			}
		}
	}
}

func mutated(random *rand.Rand, from []byte) []byte {
	if from == nil {
		return nil
	}
	file := slices.Clone(from)
	for range 1 + random.IntN(16) {
		at := random.IntN(len(file))
		// The start of the file, and of any page, is what leads to everything else.
		switch random.IntN(4) {
		case 0:
			at = random.IntN(min(len(file), 100))
		case 1:
			at = at&^511 + random.IntN(min(len(file)-at&^511, 32))
		}
		if random.IntN(2) == 0 {
			file[at] = harmful[random.IntN(len(harmful))]
		} else {
			file[at] = byte(random.Uint32())
		}
	}
	if random.IntN(8) == 0 {
		file = file[:random.IntN(len(file))]
	}
	return file
}
