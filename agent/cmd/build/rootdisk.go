package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

// Bound of the JSON documents of an image: they come from a Dockerfile.
const documentLimit = 4 << 20

// image is what is needed of an OCI layout: the layers in order, the container's config and what it was built of.
type image struct {
	layers       []string
	config       json.RawMessage
	dependencies []dependency
}

// readImage follows index → manifest → config of a layout with one image.
func readImage(layout string) (image, error) {
	found, attached, err := imageIn(layout)
	if err != nil {
		return image{}, err
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := readDocument(blobPath(layout, found), &manifest); err != nil {
		return image{}, err
	}
	var config struct {
		Config           json.RawMessage
		OS, Architecture string
	}
	if err := readDocument(blobPath(layout, manifest.Config.Digest), &config); err != nil {
		return image{}, err
	}
	if config.OS != "linux" || config.Architecture != "amd64" {
		return image{}, failure{exitDockerfile, fmt.Errorf("the image is for %s/%s; microVMs run linux/amd64", config.OS, config.Architecture)}
	}
	if len(config.Config) == 0 {
		config.Config = json.RawMessage("{}")
	}
	read := image{config: config.Config}
	for _, layer := range manifest.Layers {
		read.layers = append(read.layers, layer.Digest)
	}
	if attached != "" {
		read.dependencies, err = dependenciesIn(layout, attached)
	}
	return read, err
}

func readDocument(path string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > documentLimit {
		return fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), documentLimit)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.NewDecoder(bytes.NewReader(text)).Decode(into)
}

// blobPath maps a digest to its file; anything that is no plain sha256 digest maps to a name that does not exist.
func blobPath(layout, digest string) string {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		hex = "invalid"
	}
	return filepath.Join(layout, "blobs", "sha256", hex)
}

// rootDisk is what was written.
type rootDisk struct {
	usedBytes int64
	// Of its listing.
	digest    string
	inventory inventory
}

// writeRootDisk puts the image's layers onto the disk. When the disk already holds the image's first layer, only the
// others are applied, so an image of the managed base costs what it added.
func writeRootDisk(ctx context.Context, disk, layout string, img image, baseLayer string, took *phases) (made rootDisk, err error) {
	layers := img.layers
	hasBase := len(layers) > 0 && layers[0] == baseLayer
	if !hasBase {
		if err := command(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", disk); err != nil {
			return made, err
		}
	}
	if err := os.MkdirAll(outMount, 0o700); err != nil {
		return made, err
	}
	if err := syscall.Mount(disk, outMount, "ext4", syscall.MS_NOATIME|syscall.MS_NODEV, ""); err != nil {
		return made, fmt.Errorf("mount the root disk: %w", err)
	}
	defer func() { err = errors.Join(err, unmount(outMount)) }()
	changed := newTouched(outMount)
	changed.everywhere = !hasBase
	files, err := applyLayers(ctx, layout, layers, hasBase, changed)
	if err != nil {
		return made, err
	}
	// ext4's own folder is no part of an image.
	if err := os.Remove(filepath.Join(outMount, "lost+found")); err != nil && !os.IsNotExist(err) {
		return made, err
	}
	var stat syscall.Statfs_t
	if err := syscall.Statfs(outMount, &stat); err != nil {
		return made, err
	}
	made.usedBytes = int64(stat.Blocks-stat.Bfree) * stat.Bsize
	err = took.of("digest", func() error {
		listing, err := listRootDisk(files, changed, baseLayer)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(listing)
		made.digest = hex.EncodeToString(sum[:])
		if err := files.keep(); err != nil {
			fmt.Printf("[builder] the next build has to read these files again: %v\n", err)
		}
		return nil
	})
	if err != nil {
		return made, fmt.Errorf("list the root disk: %w", err)
	}
	made.inventory, err = packagesIn(outMount)
	return made, err
}

// listRootDisk lists what is mounted, of which the base's part is listed once per cache: by the first build that adds nothing below it,
// which is the one that set-up makes.
func listRootDisk(files *known, changed *touched, baseLayer string) ([]byte, error) {
	name := filepath.Base(blobPath("", baseLayer))
	var before *earlier
	if !changed.everywhere {
		var err error
		if before, err = earlierListing(listingsDir, name); err != nil {
			return nil, err
		}
	}
	var listing bytes.Buffer
	if err := listTree(outMount, files, &unchanged{changed, before}, &listing); err != nil {
		return nil, err
	}
	if before == nil && changed.isAtTopOnly() {
		if err := keepListing(listingsDir, name, listing.Bytes()); err != nil {
			fmt.Printf("[builder] the next build has to list the base again: %v\n", err)
		}
	}
	return listing.Bytes(), nil
}

// applyLayers returns what is known of the files it wrote, and tells where they are.
func applyLayers(ctx context.Context, layout string, layers []string, hasBase bool, changed *touched) (*known, error) {
	files := &known{learnedDir: learnedLayersDir}
	for i, digest := range layers {
		needsNames, err := files.begin(digest)
		if err != nil {
			return nil, err
		}
		brings := func(string) {}
		if needsNames {
			brings = files.brings
		}
		if i > 0 || !hasBase {
			if err := applyLayer(ctx, blobPath(layout, digest), brings, changed); err != nil {
				return nil, fmt.Errorf("apply layer %s: %w", digest, err)
			}
		}
		if err := files.end(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func applyLayer(ctx context.Context, blob string, brings func(name string), changed *touched) error {
	file, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer file.Close()
	uncompressed, err := compression.DecompressStream(file)
	if err != nil {
		return err
	}
	defer uncompressed.Close()
	tell := archive.WithFilter(func(header *tar.Header) (bool, error) {
		brings(header.Name)
		changed.by(header)
		return true, nil
	})
	_, err = archive.Apply(ctx, outMount, uncompressed, tell)
	return err
}
