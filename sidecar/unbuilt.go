package sidecar

import (
	"strings"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// unbuiltMethods maps the full gRPC methods of blocks that this version does not have yet to the block's name.
func unbuiltMethods() map[string]string {
	blocks := map[string]string{
		"actors": "RegisterActorTimer UnregisterActorTimer RegisterActorReminder UnregisterActorReminder UnregisterActorRemindersByType " +
			"ListActorReminders GetActorReminder GetActorState ExecuteActorStateTransaction InvokeActor SubscribeActorEventsAlpha1",
		"configuration": "GetConfigurationAlpha1 GetConfiguration SubscribeConfigurationAlpha1 SubscribeConfiguration " +
			"UnsubscribeConfigurationAlpha1 UnsubscribeConfiguration",
		"distributed lock": "TryLockAlpha1 UnlockAlpha1",
		"cryptography": "EncryptAlpha1 DecryptAlpha1 SubtleGetKeyAlpha1 SubtleEncryptAlpha1 SubtleDecryptAlpha1 SubtleWrapKeyAlpha1 " +
			"SubtleUnwrapKeyAlpha1 SubtleSignAlpha1 SubtleVerifyAlpha1",
		"workflow": "StartWorkflowAlpha1 GetWorkflowAlpha1 PurgeWorkflowAlpha1 TerminateWorkflowAlpha1 PauseWorkflowAlpha1 ResumeWorkflowAlpha1 " +
			"RaiseEventWorkflowAlpha1 StartWorkflowBeta1 GetWorkflowBeta1 PurgeWorkflowBeta1 TerminateWorkflowBeta1 PauseWorkflowBeta1 " +
			"ResumeWorkflowBeta1 RaiseEventWorkflowBeta1",
		"jobs": "ScheduleJobAlpha1 ScheduleJob GetJobAlpha1 GetJob DeleteJobAlpha1 DeleteJob DeleteJobsByPrefixAlpha1 DeleteJobsByPrefix " +
			"ListJobsAlpha1 ListJobs",
		"conversation": "ConverseAlpha1 ConverseAlpha2",
	}
	methods := map[string]string{}
	for block, names := range blocks {
		for name := range strings.FieldsSeq(names) {
			methods["/"+runtimev1.Dapr_ServiceDesc.ServiceName+"/"+name] = block
		}
	}
	return methods
}

// unbuiltRoutes are the HTTP endpoints of those blocks: they answer 501 and name the block, instead of being taken for calls
// of an app.
func unbuiltRoutes() []*api.Route {
	var routes []*api.Route
	add := func(block, group, methods string, paths ...string) {
		handler := func(*api.Call) error {
			return api.ErrUnimplemented("this version does not have the " + block + " building block yet")
		}
		for _, p := range paths {
			routes = append(routes, &api.Route{Methods: strings.Fields(methods), Path: p, Name: "", Group: group, Handler: handler})
		}
	}
	const write = "POST PUT"
	for version, group := range map[string]string{"v1.0": "v1", "v1.0-alpha1": "v1alpha1"} {
		add("configuration", group+"/configuration", "GET", "/"+version+"/configuration/{storeName}", "/"+version+"/configuration/{storeName}/subscribe",
			"/"+version+"/configuration/{storeName}/{configurationSubscribeID}/unsubscribe")
		add("jobs", group+"/jobs", "POST GET DELETE", "/"+version+"/jobs/{name}")
	}
	const actor = "/v1.0/actors/{actorType}/{actorId}"
	add("actors", "v1/actors", "GET POST PUT DELETE", actor+"/method/{method}", actor+"/reminders/{name}")
	add("actors", "v1/actors", write, actor+"/state")
	add("actors", "v1/actors", "GET", actor+"/state/{key}")
	add("actors", "v1/actors", "POST PUT DELETE", actor+"/timers/{name}")
	for version, group := range map[string]string{"v1.0": "v1", "v1.0-beta1": "v1beta1", "v1.0-alpha1": "v1alpha1"} {
		base := "/" + version + "/workflows/{workflowComponent}/"
		add("workflow", group+"/workflows", "POST", base+"{workflowName}/start", base+"{instanceID}/raiseEvent/{eventName}", base+"{instanceID}/pause",
			base+"{instanceID}/resume", base+"{instanceID}/terminate", base+"{instanceID}/purge")
		add("workflow", group+"/workflows", "GET", base+"{instanceID}")
	}
	add("conversation", "v1alpha1/conversation", "POST", "/v1.0-alpha1/conversation/{name}/converse")
	add("conversation", "v1alpha2/conversation", "POST", "/v1.0-alpha2/conversation/{name}/converse")
	add("distributed lock", "v1alpha1/lock", "POST", "/v1.0-alpha1/lock/{storeName}")
	add("distributed lock", "v1alpha1/unlock", "POST", "/v1.0-alpha1/unlock/{storeName}")
	add("cryptography", "v1alpha1/crypto", "PUT", "/v1.0-alpha1/crypto/{name}/encrypt", "/v1.0-alpha1/crypto/{name}/decrypt")
	for _, call := range []string{"getkey", "encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify"} {
		add("cryptography", "v1alpha1/subtlecrypto", "POST", "/v1.0-alpha1/subtlecrypto/{name}/"+call)
	}
	return routes
}
