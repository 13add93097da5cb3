package redis

import (
	"context"
	"crypto/sha1" // #nosec G505 -- it is how Redis names scripts, not a safeguard.
	"encoding/hex"

	"github.com/redis/rueidis"
)

// The scripts take the key, and as arguments the expected version ("0" for none), and the writing ones the data, whether
// it is a first-write ("1" or "0") and the life ("" to leave it as it is). They return -1 when they refuse to write.
//
// A write is allowed on a key without a version, on one with the expected version, and without an expected version on one
// that was never first-written (Dapr API, state: storage layouts, Redis).
const (
	setHashText = `local r = redis.pcall('HMGET', KEYS[1], 'version', 'first-write')
if r.err then
  if string.sub(r.err, 1, 9) ~= 'WRONGTYPE' then return r end
  redis.call('DEL', KEYS[1])
  r = {false, false}
end
if r[1] and r[1] ~= '' and r[1] ~= ARGV[1] and (r[2] or ARGV[1] ~= '0') then return -1 end
redis.call('HSET', KEYS[1], 'data', ARGV[2])
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'first-write', '0') end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
` + setExpiryText

	// An item of another layout has no version that could differ.
	deleteHashText = `local v = redis.pcall('HGET', KEYS[1], 'version')
if type(v) == 'table' and v.err then
  if string.sub(v.err, 1, 9) ~= 'WRONGTYPE' then return v end
  v = false
end
if v and v ~= '' and v ~= ARGV[1] and ARGV[1] ~= '0' then return -1 end
return redis.call('DEL', KEYS[1])
`

	// The first lines of the JSON scripts: the version and the first-write mark, false when there are none.
	readJSONText = `local version, first, exists = false, false, false
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'ReJSON-RL' then
  exists = true
  local doc = cjson.decode(redis.call('JSON.GET', KEYS[1], '$["version"]', '$["first-write"]'))
  version = doc['$["version"]'][1] or false
  first = doc['$["first-write"]'][1] ~= nil
  if version then version = string.format('%.0f', version) end
end
`

	// A document is changed in place, for to replace it might end its life.
	setJSONText = readJSONText + `if version and version ~= ARGV[1] and (first or ARGV[1] ~= '0') then return -1 end
if kind ~= 'none' and not exists then redis.call('DEL', KEYS[1]) end
if exists then
  version = string.format('%.0f', (tonumber(version) or tonumber(ARGV[1])) + 1)
  redis.call('JSON.SET', KEYS[1], '$["data"]', ARGV[2])
  if ARGV[3] == '1' then redis.call('JSON.SET', KEYS[1], '$["first-write"]', '0') end
  redis.call('JSON.SET', KEYS[1], '$["version"]', version)
else
  version = string.format('%.0f', tonumber(ARGV[1]) + 1)
  local mark = ''
  if ARGV[3] == '1' then mark = ',"first-write":0' end
  redis.call('JSON.SET', KEYS[1], '$', '{"data":' .. ARGV[2] .. ',"version":' .. version .. mark .. '}')
end
version = tonumber(version)
` + setExpiryText

	deleteJSONText = readJSONText + `if version and version ~= ARGV[1] and ARGV[1] ~= '0' then return -1 end
return redis.call('DEL', KEYS[1])
`

	setExpiryText = `if ARGV[4] ~= '' then
  if tonumber(ARGV[4]) > 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[4])
  else
    redis.call('PERSIST', KEYS[1])
  end
end
return version
`
)

// script is a script and the name by which the server knows it once it has run.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text)) // #nosec G401
	return script{text, hex.EncodeToString(sum[:])}
}

// byName calls the script by its name, byText by its text, which also makes the name known.
func (sc *script) byName(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return b.Evalsha().Sha1(sc.sha).Numkeys(1).Key(key).Arg(args...).Build()
}

func (sc *script) byText(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return b.Eval().Script(sc.text).Numkeys(1).Key(key).Arg(args...).Build()
}

// unknownScript reports whether the server lacks the script, as after a restart.
func unknownScript(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	return ok && answer.IsNoScript()
}

// run runs a script. A strong one waits until the replicas have what it wrote, or a second is over.
func (s *Store) run(ctx context.Context, sc *script, strong bool, key string, args []string) (n int64, err error) {
	err = s.client.RetryUnsent(ctx, func() (err error) {
		if strong && s.replicas > 0 {
			n, err = s.runStrong(ctx, sc, key, args)
			return err
		}
		n, err = s.client.Do(ctx, sc.byName(s.client.B(), key, args)).AsInt64()
		if unknownScript(err) {
			n, err = s.client.Do(ctx, sc.byText(s.client.B(), key, args)).AsInt64()
		}
		return err
	})
	return n, err
}

// runStrong runs a script and WAIT on a connection of their own: WAIT is for the writes of its connection, and would hold
// up others on it.
func (s *Store) runStrong(ctx context.Context, sc *script, key string, args []string) (n int64, err error) {
	err = s.client.Dedicated(func(c rueidis.DedicatedClient) error {
		n, err = c.Do(ctx, sc.byName(c.B(), key, args)).AsInt64()
		if unknownScript(err) {
			n, err = c.Do(ctx, sc.byText(c.B(), key, args)).AsInt64()
		}
		if err != nil || n < 0 {
			return err
		}
		return c.Do(ctx, c.B().Wait().Numreplicas(int64(s.replicas)).Timeout(waitLimit).Build()).Error()
	})
	return n, err
}
