package vsockclient

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

const completionHelp = `bash:  source <(hf-vsock-client completion bash)
zsh:   hf-vsock-client completion zsh > "${fpath[1]}/_hf-vsock-client"
fish:  hf-vsock-client completion fish | source
`

// hostPaths are operands that a shell completes by itself.
const hostPaths = "paths"

func completion(_ context.Context, c *call) (int, error) {
	write, ok := map[string]func(*strings.Builder){"bash": bash, "zsh": zsh, "fish": fish}[c.args[0]]
	if !ok {
		return 0, usagef("%q: want bash, zsh or fish", c.args[0])
	}
	var b strings.Builder
	write(&b)
	return 0, print(c.stdout, b.String())
}

// A family is the commands whose first word is the same.
type family struct {
	name    string
	members []command // itself, or those of two words
}

func families() []family {
	var all []family
	for _, c := range commands() {
		first, _, _ := strings.Cut(c.name, " ")
		if n := len(all); n == 0 || all[n-1].name != first {
			all = append(all, family{name: first})
		}
		last := &all[len(all)-1]
		last.members = append(last.members, c)
	}
	return all
}

// second is the second word of a command's name, or "".
func (cmd *command) second() string {
	_, second, _ := strings.Cut(cmd.name, " ")
	return second
}

func flagWords(flags []*flag.Flag) string {
	var words []string
	for _, f := range flags {
		words = append(words, dashed(f))
	}
	return strings.Join(append(words, "--help"), " ")
}

// valued are the flags, of all commands, that have a word behind them.
func valued() []string {
	seen := map[string]bool{}
	var words []string
	add := func(flags []*flag.Flag) {
		for _, f := range flags {
			if w := dashed(f); takesValue(f) && !seen[w] {
				seen[w] = true
				words = append(words, w)
			}
		}
	}
	add(flagsOf(nil))
	for _, c := range commands() {
		add(flagsOf(&c))
	}
	return words
}

// operandWords are what a shell offers for operands, "" for paths of the host.
func (cmd *command) operandWords() string {
	if cmd.complete == hostPaths {
		return ""
	}
	return cmd.complete
}

// scan is how bash and zsh find the command that a line has, and whether an operand
// of it is behind them, after which nothing is a flag of the client: words is the
// array of them and %[2]s the index of the word that is completed. bash makes words of
// = and : too. So --cid=3 is --cid, with a value of two words.
const scan = `  local cmd= word i skip= operand=
  for ((i = %[1]d; i < %[2]s; i++)); do
    word=${words[i]}
    if [[ -n $skip ]]; then [[ $word == = ]] || skip=; continue; fi
    case $word in
      %[3]s|=) skip=1 ;;
      --) if [[ -n $cmd ]]; then operand=1; break; fi ;;
      -*) ;;
      *) if [[ -z $cmd ]]; then cmd=$word; elif [[ $cmd == session ]]; then cmd="$cmd $word"; else operand=1; break; fi ;;
    esac
  done
`

func bash(b *strings.Builder) {
	fmt.Fprintf(b, "# bash completion for %[1]s\n_hf_vsock_client() {\n  local words=(\"${COMP_WORDS[@]}\") cur=${COMP_WORDS[COMP_CWORD]} flags= operands= paths=\n", program)
	fmt.Fprintf(b, scan, 1, "COMP_CWORD", strings.Join(valued(), "|"))
	b.WriteString("  COMPREPLY=()\n  if [[ $cur == = ]]; then skip=1 cur=; fi\n  if [[ -n $skip ]]; then COMPREPLY=($(compgen -f -- \"$cur\")); return; fi\n  case $cmd in\n")
	var names []string
	for _, f := range families() {
		names = append(names, f.name)
		var seconds []string
		for _, c := range f.members {
			if s := c.second(); s != "" {
				seconds = append(seconds, s)
			}
			paths := ""
			if c.complete == hostPaths {
				paths = "; paths=1"
			}
			fmt.Fprintf(b, "    '%s') flags='%s'; operands='%s'%s ;;\n", c.name, flagWords(flagsOf(&c)), c.operandWords(), paths)
		}
		if len(seconds) > 0 {
			fmt.Fprintf(b, "    '%s') operands='%s' ;;\n", f.name, strings.Join(seconds, " "))
		}
	}
	fmt.Fprintf(b, "    '') flags='%s'; operands='%s' ;;\n  esac\n", flagWords(flagsOf(nil)), strings.Join(names, " "))
	fmt.Fprintf(b, `  if [[ -n $operand ]]; then flags=; fi
  if [[ $cur == : || ${words[COMP_CWORD-1]} == : ]]; then paths=; fi # vm:PATH
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$operands" -- "$cur"))
    if [[ -n $paths ]]; then COMPREPLY+=($(compgen -f -- "$cur")); fi
  fi
}
complete -o filenames -F _hf_vsock_client %s
`, program)
}

// quoted is a word in single quotes, as every shell but fish reads it; zsh takes
// a colon for the end of a name.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func zshFlags(flags []*flag.Flag) string {
	var words []string
	for _, f := range flags {
		_, text := describe(f)
		words = append(words, quoted(dashed(f)+":"+text))
	}
	return strings.Join(append(words, "'--help:tell more'"), " ")
}

func zsh(b *strings.Builder) {
	fmt.Fprintf(b, "#compdef %s\n_hf_vsock_client() {\n  local -a flags operands\n  local paths=\n", program)
	fmt.Fprintf(b, scan, 2, "CURRENT", strings.Join(valued(), "|"))
	b.WriteString("  if [[ -n $skip ]]; then _files; return; fi\n  case $cmd in\n")
	var names []string
	for _, f := range families() {
		var seconds []string
		for _, c := range f.members {
			if s := c.second(); s != "" {
				seconds = append(seconds, quoted(s+":"+c.synopsis))
			} else {
				names = append(names, quoted(c.name+":"+c.synopsis))
			}
			paths := ""
			if c.complete == hostPaths {
				paths = "; paths=1"
			}
			fmt.Fprintf(b, "    %s) flags=(%s); operands=(%s)%s ;;\n", quoted(c.name), zshFlags(flagsOf(&c)), c.operandWords(), paths)
		}
		if len(seconds) > 0 {
			names = append(names, quoted(f.name+":wait for, kill or rm a session"))
			fmt.Fprintf(b, "    %s) operands=(%s) ;;\n", quoted(f.name), strings.Join(seconds, " "))
		}
	}
	fmt.Fprintf(b, "    '') flags=(%s); operands=(%s) ;;\n  esac\n", zshFlags(flagsOf(nil)), strings.Join(names, " "))
	b.WriteString(`  if [[ -n $operand ]]; then flags=(); fi
  if [[ ${words[CURRENT]} == vm:* ]]; then paths=; fi
  if [[ ${words[CURRENT]} == -* ]]; then
    _describe -o flag flags
  else
    (( $#operands )) && _describe command operands
    [[ -n $paths ]] && _files
  fi
}
`)
	fmt.Fprintf(b, "if [[ $funcstack[1] == _%[1]s ]]; then _hf_vsock_client \"$@\"; else compdef _hf_vsock_client %[1]s; fi\n", program)
}

// fishScan is scan for fish: it tells whether the line has an operand.
const fishScan = `function __hf_vsock_client_operand
  set -l words (commandline -opc)
  set -l cmd; set -l skip
  for word in $words[2..]
    if set -q skip[1]; set skip; continue; end
    switch $word
      case %s
        set skip 1
      case --
        set -q cmd[1]; and return 0
      case '-*'
      case '*'
        if set -q cmd[1]; and test "$cmd" != session; return 0; end
        set cmd "$cmd$word"
    end
  end
  return 1
end
`

const (
	fishFlag = "not __hf_vsock_client_operand"
	fishHere = `not string match -q "vm:*" -- (commandline -ct)`
)

func fish(b *strings.Builder) {
	fmt.Fprintf(b, "# fish completion for %s\ncomplete -c %[1]s -f\n", program)
	fmt.Fprintf(b, fishScan, strings.Join(valued(), " "))
	var names []string
	for _, f := range families() {
		names = append(names, f.name)
	}
	none := "not __fish_seen_subcommand_from " + strings.Join(names, " ")
	fishFlags(b, "", flagsOf(nil))
	for _, f := range families() {
		for _, c := range f.members {
			seen := "__fish_seen_subcommand_from " + f.name
			if s := c.second(); s != "" {
				fmt.Fprintf(b, "complete -c %s -n %s -a %s -d %s\n", program, fishQuoted(seen), s, fishQuoted(c.synopsis))
				seen += "; and __fish_seen_subcommand_from " + s
			} else {
				fmt.Fprintf(b, "complete -c %s -n %s -a %s -d %s\n", program, fishQuoted(none), c.name, fishQuoted(c.synopsis))
			}
			if c.complete == hostPaths {
				fmt.Fprintf(b, "complete -c %s -n %s -F\n", program, fishQuoted(seen+"; and "+fishHere))
			} else if c.complete != "" {
				fmt.Fprintf(b, "complete -c %s -n %s -a %s\n", program, fishQuoted(seen), fishQuoted(c.complete))
			}
			fishFlags(b, seen, without(flagsOf(&c), flagsOf(nil)))
		}
		if f.members[0].second() != "" {
			fmt.Fprintf(b, "complete -c %s -n %s -a %s\n", program, fishQuoted(none), f.name)
		}
	}
}

func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

func fishFlags(b *strings.Builder, seen string, flags []*flag.Flag) {
	for _, f := range flags {
		condition, kind, value := fishFlag, "-l", ""
		if seen != "" {
			condition = seen + "; and " + fishFlag
		}
		if len(f.Name) == 1 {
			kind = "-s"
		}
		if takesValue(f) {
			value = " -r"
		}
		_, text := describe(f)
		fmt.Fprintf(b, "complete -c %s -n %s %s %s%s -d %s\n", program, fishQuoted(condition), kind, f.Name, value, fishQuoted(text))
	}
}
