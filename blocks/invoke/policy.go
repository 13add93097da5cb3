package invoke

import (
	"context"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
)

// failedAnswer is an app's answer that counts as a failure for policies; the last one is the result all the same.
type failedAnswer struct{ resp *invocation.Response }

func (e *failedAnswer) Error() string {
	return fmt.Sprintf("the app answered with status %d", e.resp.Status)
}

// judge is an attempt's result for the policy: which answers fail it, with which status codes, depends on the client's
// protocol (Dapr API, resiliency: where policies apply). A request that cannot be sent twice fails for good.
func judge(req *invocation.Request, resp *invocation.Response, err error) error {
	const onceOnly, uncoded = -1, -2
	code := uncoded
	switch {
	case err != nil:
	case req.Origin == invocation.FromGRPC:
		if resp.IsHTTP() && api.GRPCCode(resp.Status) == codes.OK || !resp.IsHTTP() && resp.Status == int(codes.OK) {
			return nil
		}
		err = &failedAnswer{resp}
	case !resp.IsHTTP() || resp.Success():
		return nil
	default:
		err, code = &failedAnswer{resp}, resp.Status
	}
	if !req.Replayable() {
		code = onceOnly // no policy retries such a code
	}
	if code == uncoded {
		return err
	}
	return resiliency.Coded(err, code)
}

// underPolicies makes a call under the policies for its target.
func (b *Block) underPolicies(ctx context.Context, target string, r route, req *invocation.Request) (*invocation.Response, error) {
	key := target + ":" + req.Method
	switch r.kind {
	case toURL:
		key = target + "/" + req.Method
	case toEndpoint:
		base, _ := b.options.External.BaseURL(r.endpoint)
		key = target + ":" + base
	}
	policy := b.options.Resiliency.App(target, key)
	var (
		// turn is held by the attempt that runs. One that was given up because of its timeout still uses the request until it
		// notices, so the next one and this function's end wait for that.
		turn sync.Mutex
		last *invocation.Response
	)
	err := resiliency.Do(ctx, policy, func(attempt context.Context) error {
		turn.Lock()
		defer turn.Unlock()
		if err := attempt.Err(); err != nil {
			return err
		}
		discard(&last)
		if !policy.HasTimeout() {
			resp, err := b.call(attempt, r, req)
			last = resp
			return judge(req, resp, err)
		}
		// The answer's body is read when the attempt is over.
		living, settled, cancel := resiliency.Outlive(ctx, attempt)
		resp, err := b.call(living, r, req)
		if !settled() || err != nil {
			cancel()
			discard(&resp)
			if cause := attempt.Err(); cause != nil {
				err = cause
			}
			return judge(req, nil, err)
		}
		if resp.Stream == nil {
			cancel()
		} else {
			resp.Stream = &cancelling{resp.Stream, cancel}
		}
		last = resp
		return judge(req, resp, nil)
	})
	turn.Lock()
	defer turn.Unlock()
	if err == nil {
		return last, nil
	}
	if failed, ok := err.(*failedAnswer); ok && failed.resp == last {
		return last, nil
	}
	discard(&last)
	if cause := ctx.Err(); cause != nil {
		return nil, cause
	}
	return nil, err
}

func discard(resp **invocation.Response) {
	if *resp != nil {
		_ = (*resp).Close()
		*resp = nil
	}
}

// cancelling is a body that ends the context of its call when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelling) Close() error {
	err := c.ReadCloser.Close()
	c.cancel()
	return err
}
