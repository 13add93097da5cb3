package state

import (
	"fmt"
	"strings"

	"outrigger.dev/api"
)

// separator parts the prefix of a stored key from the key (Dapr API, state: key prefix).
const separator = "||"

// keyPrefix is what stands in front of the keys of a store called name, separator and all.
func keyPrefix(o Options, name string, properties map[string]string) (string, error) {
	strategy := ""
	for item, value := range properties {
		if strings.EqualFold(item, "keyPrefix") {
			strategy = strings.ToLower(value)
		}
	}
	switch strategy {
	case "none":
		return "", nil
	case "name":
		return name + separator, nil
	case "", "appid", "namespace":
		switch {
		case o.AppID == "":
			return "", nil
		case strategy == "namespace" && o.Namespace != "":
			return o.Namespace + "." + o.AppID + separator, nil
		}
		return o.AppID + separator, nil
	}
	if strings.Contains(strategy, separator) {
		return "", fmt.Errorf("metadata item keyPrefix of state store %s: input key/keyPrefix '%s' can't contain '%s'; use appid, name, namespace, none or a text without it",
			name, strategy, separator)
	}
	return strategy + separator, nil
}

// legal refuses keys that contain the separator.
func (in *instance) legal(key string) error {
	if strings.Contains(key, separator) {
		return api.ErrStateIllegalKey(in.name, key)
	}
	return nil
}

// appKey turns a stored key of this app back into the app's.
func (in *instance) appKey(stored string) string {
	if key, ok := strings.CutPrefix(stored, in.prefix); ok {
		return key
	}
	return foreignKey(stored)
}

// foreignKey turns the stored key of any app back: it is what follows the first separator, up to the second.
func foreignKey(stored string) string {
	_, key, ok := strings.Cut(stored, separator)
	if !ok {
		return stored
	}
	key, _, _ = strings.Cut(key, separator)
	return key
}
