package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"rekindle/agent/rpmdb"
)

// About 50 KB of it are a package's, most of which is not read.
const maxRPMDatabaseBytes = 512 << 20

var (
	// Often one is a link to the other.
	rpmFolders = []string{"usr/lib/sysimage/rpm", "var/lib/rpm"}
	// Those behind the first that a folder has are what an earlier rpm left there.
	rpmDatabases = []string{"rpmdb.sqlite", "Packages.db", "Packages"}
)

func (i *inventory) readRPM(root *os.Root) {
	var before os.FileInfo
	for _, folder := range rpmFolders {
		info, err := root.Stat(folder)
		if err == nil && before != nil && os.SameFile(before, info) {
			continue
		}
		before = info
		i.readRPMFolder(root, folder)
	}
}

func (i *inventory) readRPMFolder(root *os.Root, folder string) {
	for _, database := range rpmDatabases {
		name := path.Join(folder, database)
		file, err := openDatabase(root, name, maxRPMDatabaseBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			i.miss(name, err)
			return
		}
		defer file.Close()
		i.readRPMDatabase(root, name, file)
		return
	}
}

func (i *inventory) readRPMDatabase(root *os.Root, name string, database io.ReaderAt) {
	var log io.ReaderAt
	file, err := openDatabase(root, name+"-wal", maxRPMDatabaseBytes)
	if err == nil {
		defer file.Close()
		log = file
	} else if !errors.Is(err, fs.ErrNotExist) {
		i.miss(name+"-wal", err)
	}
	for one, err := range rpmdb.Packages(database, log) {
		if err != nil {
			i.miss(name, err)
			continue
		}
		i.add(name, pkg{"rpm", one.Name, one.EVR(), one.Arch})
	}
}
