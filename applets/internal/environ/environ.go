// Package environ makes the environment that a program of the guest starts with:
// that of PID 1's children and that of the agent's commands is one.
package environ

import "strings"

// Path is PATH where nobody says otherwise.
const Path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

// Default returns the environment of a user with that home directory.
func Default(home string) []string { return []string{"PATH=" + Path, "HOME=" + home, "TERM=linux"} }

// Override returns the words of env, less those whose names occur in words, and
// words behind them; of several with one name the last counts. There may be a
// million words: they are looked up, not searched for one by one.
func Override(env, words []string) []string {
	last := make(map[string]int, len(words))
	for i, word := range words {
		last[name(word)] = i
	}
	merged := make([]string, 0, len(env)+len(words))
	for _, word := range env {
		if _, over := last[name(word)]; !over {
			merged = append(merged, word)
		}
	}
	for i, word := range words {
		if last[name(word)] == i {
			merged = append(merged, word)
		}
	}
	return merged
}

func name(word string) string {
	name, _, _ := strings.Cut(word, "=")
	return name
}
