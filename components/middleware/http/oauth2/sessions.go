package oauth2

import (
	"container/list"
	"crypto/rand"
	"crypto/subtle"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

const (
	// maxLogins bounds the logins under way, and maxSessions the users that are logged in; the oldest give way.
	maxLogins, maxSessions = 10_000, 100_000
	// maxPath bounds the target that is remembered during a login, in bytes; a longer one leads to "/".
	maxPath = 2048
	// loginTime is how long a user may take to log in, sessionTime how long a session without an expiry of its own lasts.
	loginTime, sessionTime = 10 * time.Minute, 12 * time.Hour
)

// sessions are the users that are logged in, and those that are about to, in memory. The two do not compete for room: those who
// only knock cannot push out those who are in.
type sessions struct {
	logins, users expiring
	clock         clockwork.Clock
}

func newSessions(clock clockwork.Clock) *sessions {
	return &sessions{clock: clock, logins: newExpiring(maxLogins), users: newExpiring(maxSessions)}
}

// login is one that is under way.
type login struct{ browser, back string }

// begin begins a login of a browser that wanted uri, and returns the state to send along.
func (s *sessions) begin(browser, uri string) (state string) {
	if len(uri) > maxPath {
		uri = "/"
	}
	state = rand.Text()
	now := s.clock.Now()
	s.logins.put(state, login{browser, localPath(uri)}, now, now.Add(loginTime))
	return state
}

// finish ends the login with the given state, if that is the browser's, and returns the target that it wanted.
func (s *sessions) finish(browser, state string) (back string, ok bool) {
	value, found := s.logins.get(state, s.clock.Now())
	l, _ := value.(login)
	if !found || subtle.ConstantTimeCompare([]byte(l.browser), []byte(browser)) != 1 {
		return "", false
	}
	s.logins.remove(state)
	return l.back, true
}

// add adds a session with the value of the header that its requests get, and returns its name. lasts is 0 when the provider did not
// say how long the token is good.
func (s *sessions) add(token string, lasts time.Duration) (id string) {
	if lasts <= 0 {
		lasts = sessionTime
	}
	id = rand.Text()
	now := s.clock.Now()
	s.users.put(id, token, now, now.Add(lasts))
	return id
}

// token is the header value of a session.
func (s *sessions) token(id string) (string, bool) {
	if id == "" {
		return "", false
	}
	value, ok := s.users.get(id, s.clock.Now())
	token, _ := value.(string)
	return token, ok
}

// expiring is a bounded map whose entries expire; the oldest give way to new ones.
type expiring struct {
	limit int

	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List // oldest first
}

type expiringEntry struct {
	key     string
	value   any
	expires time.Time
}

func newExpiring(limit int) expiring {
	return expiring{limit: limit, byKey: map[string]*list.Element{}, order: list.New()}
}

func (m *expiring) put(key string, value any, now, expires time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.order.Front(); e != nil; e = m.order.Front() {
		if old := e.Value.(*expiringEntry); now.Before(old.expires) && len(m.byKey) < m.limit {
			break
		}
		m.drop(e)
	}
	m.byKey[key] = m.order.PushBack(&expiringEntry{key, value, expires})
}

func (m *expiring) get(key string, now time.Time) (any, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byKey[key]
	if !ok {
		return nil, false
	}
	entry := e.Value.(*expiringEntry)
	if !now.Before(entry.expires) {
		m.drop(e)
		return nil, false
	}
	return entry.value, true
}

func (m *expiring) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[key]; ok {
		m.drop(e)
	}
}

func (m *expiring) drop(e *list.Element) {
	m.order.Remove(e)
	delete(m.byKey, e.Value.(*expiringEntry).key)
}
