//go:build !race

package reaper

const raced = 1
