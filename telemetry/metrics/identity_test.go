package metrics

import "testing"

// TestIdentities are the metrics of certificates and of access control, whose app_id is the caller's.
func TestIdentities(t *testing.T) {
	m := mustNew(t, base())
	m.MTLS().Init()
	m.MTLS().InitFailed()
	m.MTLS().Rotated()
	m.MTLS().Rotated()
	for _, reason := range []string{ReasonSentryConnection, ReasonSentryToken, ReasonSign, ReasonInvalidTimestamp, ReasonJWTParse, ReasonJWTAudience} {
		m.MTLS().RotateFailed(reason)
	}
	for _, byApp := range []bool{false, true} {
		m.AccessControl().Observe("caller", "public", "prod", byApp, true)
		m.AccessControl().Observe("caller", "public", "prod", byApp, false)
	}
	const tls, acl, caller = "dapr_runtime_mtls_", "dapr_runtime_acl_", `{app_id="caller",namespace="prod",trustDomain="public"} 1`
	wantLines(
		t, m,
		tls+`init_total{app_id="myapp"} 1`,
		tls+`init_fail_total{app_id="myapp"} 1`,
		tls+`workload_cert_rotated_total{app_id="myapp"} 2`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="sentry_conn"} 1`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="sentry_token"} 1`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="sign"} 1`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="invalid_ts"} 1`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="jwt_parse"} 1`,
		tls+`workload_cert_rotated_fail_total{app_id="myapp",reason="jwt_aud"} 1`,
		acl+`app_policy_action_allowed_total`+caller,
		acl+`app_policy_action_blocked_total`+caller,
		acl+`global_policy_action_allowed_total`+caller,
		acl+`global_policy_action_blocked_total`+caller,
	)
}
