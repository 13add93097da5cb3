package cli

import (
	"math/rand/v2"
	"strings"
)

// The words that generated app ids are made of.
const (
	firstWords  = "amber brisk calm coral dapper eager fresh gentle golden hidden keen light lively misty noble pale quick quiet rapid silver smooth steady sunny swift tidal vivid warm windy"
	secondWords = "anchor bay breeze canoe cove current dolphin drift gull harbor heron island keel lagoon mast otter paddle pelican reef sail seal shore surf swell tern tide turtle wave"
)

// randomAppID is an app id of two words that no running instance has.
func randomAppID(running []instanceInfo) string {
	first, second := strings.Fields(firstWords), strings.Fields(secondWords)
	taken := make(map[string]bool, len(running))
	for _, r := range running {
		taken[r.AppID] = true
	}
	id := ""
	for range 100 { // enough, with hundreds of names; more running apps than that may share one
		id = first[rand.IntN(len(first))] + "-" + second[rand.IntN(len(second))]
		if !taken[id] {
			break
		}
	}
	return id
}
