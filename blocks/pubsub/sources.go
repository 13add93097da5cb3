package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/invocation"
	"outrigger.dev/jsontext"
)

// maxSubscriptions bounds an app's answer to GET /dapr/subscribe, in bytes.
const maxSubscriptions = 4 << 20

// fetchTimeout bounds one question for the app's subscriptions: an app may be slow to start, but not for ever.
const fetchTimeout = time.Minute

// fetch asks the app which subscriptions it wants (Dapr API, subscriptions: programmatic). An app without the endpoint has
// none. dropped are faults of single entries, which are left out.
func fetch(ctx context.Context, channel app.Channel, appID string) (list []Subscription, dropped []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if g, ok := channel.(*app.GRPCChannel); ok {
		list, err = fetchGRPC(ctx, g)
	} else {
		list, dropped, err = fetchHTTP(ctx, channel, appID)
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range list {
		if _, err := newRouter(list[i].Rules); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", &list[i], err)
		}
	}
	return list, dropped, nil
}

func fetchHTTP(ctx context.Context, channel app.Channel, appID string) (list []Subscription, dropped []string, err error) {
	req := &invocation.Request{Method: "dapr/subscribe", Verb: http.MethodGet, ContentType: "application/json"}
	req.Header.Add(invocation.AppID, appID)
	resp, err := channel.Invoke(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case resp.Status == http.StatusNotFound:
		return nil, nil, resp.Close()
	case resp.Status != http.StatusOK:
		return nil, []string{fmt.Sprintf("the app answers GET /dapr/subscribe with status %d, so it has no subscriptions of its own; let it answer 200 with a list, or 404", resp.Status)}, resp.Close()
	}
	if err := resp.Buffer(maxSubscriptions); err != nil {
		return nil, nil, fmt.Errorf("reading the answer to GET /dapr/subscribe: %w", err)
	}
	list, dropped, err = parseSubscriptions(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("the app's answer to GET /dapr/subscribe cannot be understood: %w", err)
	}
	return list, dropped, nil
}

// parseSubscriptions reads an HTTP app's list. Entries without any route are dropped.
func parseSubscriptions(text []byte) (list []Subscription, dropped []string, err error) {
	w := jsontext.Walk(text)
	if w.Kind() == jsontext.None {
		w.End()
		return nil, nil, w.Err()
	}
	if w.Null() {
		w.End()
		return nil, nil, w.Err()
	}
	for w.Array(); w.Element(); {
		s := Subscription{Origin: Programmatic}
		var route, otherwise string
		if w.Null() {
			continue
		}
		for w.Object(); w.Member(); {
			switch {
			case w.Named("pubsubname"):
				s.Component = w.String()
			case w.Named("topic"):
				s.Topic = w.String()
			case w.Named("deadLetterTopic"):
				s.DeadLetterTopic = w.String()
			case w.Named("metadata"):
				s.Metadata = w.Strings(nil)
			case w.Named("route"):
				route = w.String()
			case w.Named("routes"):
				s.Rules, otherwise = parseRoutes(&w)
			case w.Named("bulkSubscribe"):
				if s.Bulk, err = parseBulk(&w); err != nil {
					return nil, nil, err
				}
			default:
				w.Skip()
			}
		}
		switch {
		case otherwise != "":
			s.Rules = append(s.Rules, Rule{Path: otherwise})
		case route != "":
			s.Rules = append(s.Rules, Rule{Path: route})
		}
		switch {
		case s.Component == "" || s.Topic == "":
			dropped = append(dropped, fmt.Sprintf("the app's subscription to %s is left out: it needs pubsubname and topic", &s))
		case len(s.Rules) == 0:
			dropped = append(dropped, fmt.Sprintf("the app's subscription to %s is left out: it has no route; give it route, routes.rules or routes.default", &s))
		default:
			list = append(list, s)
		}
	}
	w.End()
	if w.Err() != nil {
		return nil, nil, w.Err()
	}
	return list, dropped, nil
}

func parseRoutes(w *jsontext.Walker) (rules []Rule, otherwise string) {
	if w.Null() {
		return nil, ""
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("default"):
			otherwise = w.String()
		case w.Named("rules"):
			rules = parseRules(w)
		default:
			w.Skip()
		}
	}
	return rules, otherwise
}

func parseRules(w *jsontext.Walker) (rules []Rule) {
	if w.Null() {
		return nil
	}
	for w.Array(); w.Element(); {
		var rule Rule
		if w.Null() {
			continue
		}
		for w.Object(); w.Member(); {
			switch {
			case w.Named("match"):
				rule.Match = w.String()
			case w.Named("path"):
				rule.Path = w.String()
			default:
				w.Skip()
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

func parseBulk(w *jsontext.Walker) (bulk Bulk, err error) {
	if w.Null() {
		return bulk, nil
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("enabled"):
			switch text := string(w.Raw()); text {
			case "true", "false", "null", "":
				bulk.Enabled = text == "true"
			default:
				return bulk, fmt.Errorf("bulkSubscribe.enabled is %s; use true or false", text)
			}
		case w.Named("maxMessagesCount"):
			bulk.MaxMessages = w.Int()
		case w.Named("maxAwaitDurationMs"):
			bulk.MaxAwait = time.Duration(w.Int()) * time.Millisecond
		default:
			w.Skip()
		}
	}
	return bulk, nil
}

func fetchGRPC(ctx context.Context, channel *app.GRPCChannel) ([]Subscription, error) {
	reply, err := runtimev1.NewAppCallbackClient(channel.Conns()).ListTopicSubscriptions(ctx, &emptypb.Empty{})
	if status.Code(err) == codes.Unimplemented {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Subscription
	for _, in := range reply.GetSubscriptions() {
		s := Subscription{
			Component: in.GetPubsubName(), Topic: in.GetTopic(), Metadata: in.GetMetadata(), DeadLetterTopic: in.GetDeadLetterTopic(), Origin: Programmatic,
			Bulk: Bulk{
				Enabled: in.GetBulkSubscribe().GetEnabled(), MaxMessages: int(in.GetBulkSubscribe().GetMaxMessagesCount()),
				MaxAwait: time.Duration(in.GetBulkSubscribe().GetMaxAwaitDurationMs()) * time.Millisecond,
			},
		}
		for _, rule := range in.GetRoutes().GetRules() {
			s.Rules = append(s.Rules, Rule{rule.GetMatch(), rule.GetPath()})
		}
		if path := in.GetRoutes().GetDefault(); path != "" || len(s.Rules) == 0 {
			s.Rules = append(s.Rules, Rule{Path: path})
		}
		list = append(list, s)
	}
	return list, nil
}

// unreachable reports whether asking the app failed because it could not be reached, which may soon be different, and not
// because of what it said.
func unreachable(err error) bool {
	var call *app.CallError
	if errors.As(err, &call) || errors.Is(err, app.ErrUnhealthy) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	_, isStatus := status.FromError(err)
	return isStatus
}
