package engine

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageTimeout bounds the reading of one page.
const pageTimeout = 20 * time.Second

// pager reads the keys of a prefix in order and page by page, all as they were at one revision.
type pager struct {
	client   *clientv3.Client
	from     string // the first key that was not read yet
	end      string
	limit    int64
	revision int64 // 0 before the first page: the newest
	page     []*mvccpb.KeyValue
	last     bool // no page comes any more
}

func newPager(client *clientv3.Client, prefix string, limit int64) *pager {
	return &pager{client: client, from: prefix, end: clientv3.GetPrefixRangeEnd(prefix), limit: limit}
}

// next is the next key; nil at the end.
func (p *pager) next(ctx context.Context) (*mvccpb.KeyValue, error) {
	for len(p.page) == 0 {
		if p.last {
			return nil, nil
		}
		call, cancel := context.WithTimeout(ctx, pageTimeout)
		resp, err := p.client.Get(call, p.from, clientv3.WithRange(p.end), clientv3.WithLimit(p.limit), clientv3.WithRev(p.revision))
		cancel()
		if err != nil {
			return nil, err
		}
		if p.revision == 0 {
			p.revision = resp.Header.Revision
		}
		p.page, p.last = resp.Kvs, !resp.More
		if n := len(p.page); n > 0 {
			p.from = string(p.page[n-1].Key) + "\x00"
		}
	}
	kv := p.page[0]
	p.page[0] = nil
	p.page = p.page[1:]
	return kv, nil
}
