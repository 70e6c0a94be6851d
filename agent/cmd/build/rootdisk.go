package main

import (
	"bytes"
	"context"
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

// image is what is needed of an OCI layout: the layers in order and the container's config.
type image struct {
	layers []string
	config json.RawMessage
}

// readImage follows index → manifest → config of a layout with one image.
func readImage(layout string) (image, error) {
	var index struct {
		Manifests []struct{ Digest string }
	}
	if err := readDocument(filepath.Join(layout, "index.json"), &index); err != nil {
		return image{}, err
	}
	if len(index.Manifests) != 1 {
		return image{}, fmt.Errorf("the build's result has %d manifests, not one", len(index.Manifests))
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := readDocument(blobPath(layout, index.Manifests[0].Digest), &manifest); err != nil {
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
	found := image{config: config.Config}
	for _, layer := range manifest.Layers {
		found.layers = append(found.layers, layer.Digest)
	}
	return found, nil
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

// writeRootDisk puts the image's layers onto the disk. When the disk already holds the image's first layer, only the
// others are applied, so an image of the managed base costs what it added.
func writeRootDisk(ctx context.Context, disk, layout string, img image, baseLayer string) (usedBytes int64, err error) {
	layers := img.layers
	if len(layers) > 0 && layers[0] == baseLayer {
		layers = layers[1:]
	} else if err := command(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", disk); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(outMount, 0o700); err != nil {
		return 0, err
	}
	if err := syscall.Mount(disk, outMount, "ext4", syscall.MS_NOATIME, ""); err != nil {
		return 0, fmt.Errorf("mount the root disk: %w", err)
	}
	defer func() { err = errors.Join(err, unmount(outMount)) }()
	for _, digest := range layers {
		if err := applyLayer(ctx, blobPath(layout, digest)); err != nil {
			return 0, fmt.Errorf("apply layer %s: %w", digest, err)
		}
	}
	// ext4's own folder is no part of an image.
	if err := os.Remove(filepath.Join(outMount, "lost+found")); err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	var stat syscall.Statfs_t
	if err := syscall.Statfs(outMount, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize, nil
}

func applyLayer(ctx context.Context, blob string) error {
	file, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer file.Close()
	tar, err := compression.DecompressStream(file)
	if err != nil {
		return err
	}
	defer tar.Close()
	_, err = archive.Apply(ctx, outMount, tar)
	return err
}
