//go:build race

package reaper

// raced is how much less there is to do under the race detector, which starts
// slowly.
const raced = 5
