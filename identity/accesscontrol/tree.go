package accesscontrol

import "strings"

// rule is what a pattern says about the operations that it covers.
type rule struct {
	allow bool
	// verbs are the actions by HTTP verb, or "*", for HTTP apps.
	verbs map[string]bool
}

// node is a segment of patterns. Patterns form a tree in the order of their list, so that "/a/b" and "/a/c" share "a".
type node struct {
	segment string
	rule    *rule // nil when no pattern ends here
	// below are the next segments, in the order in which they were listed first.
	below []*node
}

// add puts a pattern into the tree; of equal patterns the first stays.
func (n *node) add(pattern string, r *rule) {
	for rest, more := pattern[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		n = n.child(segment)
	}
	if n.rule == nil {
		n.rule = r
	}
}

func (n *node) child(segment string) *node {
	for _, c := range n.below {
		if c.segment == segment {
			return c
		}
	}
	c := &node{segment: segment}
	n.below = append(n.below, c)
	return c
}

// find is the rule that covers an operation, nil if none does. At each level the first node that fits is taken, and there is
// no way back: a node with a rule covers everything below it (Dapr API, access control: operation matching). Security
// configurations depend on this order.
func (n *node) find(operation string) *rule {
	for rest, more := operation[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if n = n.fitting(segment, !more); n == nil {
			return nil
		}
		if n.rule != nil {
			return n.rule
		}
	}
	for _, c := range n.below {
		if c.segment == "*" || c.segment == "**" {
			return c.rule
		}
	}
	return nil
}

// fitting is the first node below that fits a segment of an operation.
func (n *node) fitting(segment string, last bool) *node {
	for _, c := range n.below {
		if c.fits(segment, last) {
			return c
		}
	}
	return nil
}

func (n *node) fits(segment string, last bool) bool {
	switch {
	case n.segment == segment, n.segment == "**":
		return true
	case n.segment == "*":
		return last
	default:
		return glob(n.segment, segment)
	}
}

// glob matches text against a pattern in which "*" stands for any run of characters.
func glob(pattern, text string) bool {
	head, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, head)
	if !ok {
		return false
	}
	for {
		part, next, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(text, part)
		}
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text, rest = text[at+len(part):], next
	}
}
