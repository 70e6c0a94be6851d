package rpmdb

import (
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	sqliteMagic = "SQLite format 3\x00"
	// As SQLite's own bound.
	maxDepth = 20
	// Ours has 44.
	maxTables = 1000

	tableInterior = 0x05
	tableLeaf     = 0x0d
)

// scanSQLite gives the second column of each row of the table Packages (hnum INTEGER PRIMARY KEY, blob BLOB).
// https://www.sqlite.org/fileformat2.html
func scanSQLite(database, log io.ReaderAt, start []byte, each func(*blob) error) error {
	all, err := openPages(database, log, start)
	if err != nil {
		return err
	}
	root, err := all.rootOf("Packages")
	if err != nil {
		return fmt.Errorf("its tables: %w", err)
	}
	return all.table(root, 0, func(row *blob) error {
		columns, err := columnsOf(row)
		if err != nil {
			return err
		}
		if len(columns) != 2 || !columns[1].isBlob() {
			return errors.New("a row that is none of rpm's")
		}
		header, err := row.part(columns[1].from, columns[1].to)
		if err != nil {
			return err
		}
		return each(header)
	})
}

// pages are those of an SQLite database; each is given out once, so that no chain or tree of them is without end.
type pages struct {
	database, log io.ReaderAt
	// logged says where in the log the newest version of a page is.
	logged map[uint32]int64
	given  map[uint32]bool
	size   int
	// usable is what is left of a page when extensions took theirs from its end.
	usable int
}

func openPages(database, log io.ReaderAt, start []byte) (*pages, error) {
	size := be16(start[16:])
	if size == 1 {
		size = 1 << 16
	}
	usable := size - int(start[20])
	switch {
	case size < 512 || size&(size-1) != 0 || usable < 480:
		return nil, fmt.Errorf("pages of %d bytes, %d of them usable", size, usable)
	case start[19] > 2:
		return nil, fmt.Errorf("version %d of SQLite's format", start[19])
	case be32(start[56:]) > 1:
		return nil, errors.New("text that is not UTF-8")
	}
	all := &pages{database: database, log: log, given: map[uint32]bool{}, size: size, usable: usable}
	if log != nil {
		var err error
		if all.logged, err = readLog(log, size); err != nil {
			return nil, fmt.Errorf("its log: %w", err)
		}
	}
	return all, nil
}

func (p *pages) take(number uint32) ([]byte, error) {
	if number == 0 || p.given[number] {
		return nil, fmt.Errorf("page %d is not where it belongs", number)
	}
	p.given[number] = true
	if at, isLogged := p.logged[number]; isLogged {
		return readAt(p.log, at, p.size)
	}
	return readAt(p.database, int64(number-1)*int64(p.size), p.size)
}

func (p *pages) rootOf(name string) (uint32, error) {
	root, rows := uint32(0), 0
	err := p.table(1, 0, func(row *blob) error {
		if rows++; rows > maxTables {
			return fmt.Errorf("more than %d", maxTables)
		}
		columns, err := columnsOf(row)
		if err != nil || len(columns) != 5 {
			return errors.Join(errors.New("a row that is none of SQLite's"), err)
		}
		var texts [4]string
		for i := range texts {
			// The first is the kind, the second the name, the fourth the page.
			if columns[i].to-columns[i].from > maxText {
				return nil
			}
			bytes, err := row.slice(columns[i].from, columns[i].to)
			if err != nil {
				return err
			}
			texts[i] = string(bytes)
		}
		if texts[0] != "table" || texts[1] != name {
			return nil
		}
		number := uint64(0)
		for _, digit := range []byte(texts[3]) {
			number = number<<8 | uint64(digit)
		}
		if number > math.MaxUint32 {
			return fmt.Errorf("page %d", number)
		}
		root = uint32(number)
		return nil
	})
	if err == nil && root == 0 {
		err = fmt.Errorf("none is %s", name)
	}
	return root, err
}

// table gives the rows of the tree below a page.
func (p *pages) table(number uint32, depth int, each func(row *blob) error) error {
	if depth > maxDepth {
		return fmt.Errorf("a tree of more than %d levels", maxDepth)
	}
	page, err := p.take(number)
	if err != nil {
		return err
	}
	header := page
	if number == 1 {
		header = page[100:]
	}
	count, pointers := be16(header[3:]), header[8:p.usable-(len(page)-len(header))]
	switch header[0] {
	case tableInterior:
		pointers = pointers[4:]
	case tableLeaf:
	default:
		return fmt.Errorf("page %d is none of a table", number)
	}
	if 2*count > len(pointers) {
		return fmt.Errorf("page %d has %d cells", number, count)
	}
	for ; count > 0; count, pointers = count-1, pointers[2:] {
		at := be16(pointers)
		if at+4 > p.usable {
			return fmt.Errorf("page %d has a cell at %d", number, at)
		}
		if cell := page[at:p.usable]; header[0] == tableInterior {
			err = p.table(be32(cell), depth+1, each)
		} else {
			err = p.row(cell, each)
		}
		if err != nil {
			return err
		}
	}
	if header[0] == tableInterior {
		return p.table(be32(header[8:]), depth+1, each)
	}
	return nil
}

// row is what a cell holds: how long it is, its number, its beginning, and the page with the rest.
func (p *pages) row(cell []byte, each func(row *blob) error) error {
	size, cell, isWhole := varint(cell)
	_, cell, isNumbered := varint(cell)
	if !isWhole || !isNumbered || size > math.MaxInt32 {
		return errors.New("a row has no proper size")
	}
	row := &blob{size: int(size)}
	local := row.size
	if most := p.usable - 35; local > most {
		least := (p.usable-12)*32/255 - 23
		if local = least + (row.size-least)%(p.usable-4); local > most {
			local = least
		}
		if local+4 > len(cell) {
			return errors.New("a row goes beyond its page")
		}
		next := be32(cell[local:])
		row.more = func() ([]byte, error) {
			page, err := p.take(next)
			if err != nil {
				return nil, err
			}
			next = be32(page)
			return page[4:p.usable], nil
		}
	}
	if local > len(cell) {
		return errors.New("a row goes beyond its page")
	}
	row.have = cell[:local:local]
	return each(row)
}

type column struct {
	kind     uint64
	from, to int
}

func (c column) isBlob() bool { return c.kind >= 12 && c.kind%2 == 0 }

func columnsOf(row *blob) ([]column, error) {
	bytes, err := row.slice(0, min(9, row.size))
	if err != nil {
		return nil, err
	}
	size, _, isWhole := varint(bytes)
	if !isWhole || size > maxText {
		return nil, errors.New("a row has no proper columns")
	}
	at := int(size)
	kinds, err := row.slice(0, at)
	if err != nil {
		return nil, err
	}
	_, kinds, _ = varint(kinds)
	columns := []column{}
	for len(kinds) > 0 {
		var kind uint64
		if kind, kinds, isWhole = varint(kinds); !isWhole || kind > math.MaxInt32 {
			return nil, errors.New("a row has no proper columns")
		}
		length := columnSize(kind)
		columns = append(columns, column{kind, at, at + length})
		at += length
	}
	return columns, nil
}

func columnSize(kind uint64) int {
	if kind < 12 {
		return [12]int{0, 1, 2, 3, 4, 6, 8, 8}[kind]
	}
	return int(kind-12) / 2
}

// varint takes a number of one to nine bytes off the front.
func varint(bytes []byte) (value uint64, rest []byte, isWhole bool) {
	for i, digits := range bytes {
		if i == 8 {
			return value<<8 | uint64(digits), bytes[9:], true
		}
		value = value<<7 | uint64(digits&0x7f)
		if digits < 0x80 {
			return value, bytes[i+1:], true
		}
	}
	return 0, nil, false
}
