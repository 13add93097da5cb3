package sidecar

import (
	"strings"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// unbuiltMethods maps the full gRPC methods of blocks that this version does not have yet to the block's name.
func unbuiltMethods() map[string]string {
	blocks := map[string]string{
		"configuration": "GetConfigurationAlpha1 GetConfiguration SubscribeConfigurationAlpha1 SubscribeConfiguration " +
			"UnsubscribeConfigurationAlpha1 UnsubscribeConfiguration",
		"distributed lock": "TryLockAlpha1 UnlockAlpha1",
		"cryptography": "EncryptAlpha1 DecryptAlpha1 SubtleGetKeyAlpha1 SubtleEncryptAlpha1 SubtleDecryptAlpha1 SubtleWrapKeyAlpha1 " +
			"SubtleUnwrapKeyAlpha1 SubtleSignAlpha1 SubtleVerifyAlpha1",
		"workflow": "StartWorkflowAlpha1 GetWorkflowAlpha1 PurgeWorkflowAlpha1 TerminateWorkflowAlpha1 PauseWorkflowAlpha1 ResumeWorkflowAlpha1 " +
			"RaiseEventWorkflowAlpha1 StartWorkflowBeta1 GetWorkflowBeta1 PurgeWorkflowBeta1 TerminateWorkflowBeta1 PauseWorkflowBeta1 " +
			"ResumeWorkflowBeta1 RaiseEventWorkflowBeta1",
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
	add := func(block, group, methods, path, name string) {
		handler := func(*api.Call) error {
			return api.ErrUnimplemented("this version does not have the " + block + " building block yet")
		}
		routes = append(routes, &api.Route{Methods: strings.Fields(methods), Path: path, Name: name, Group: group, Handler: handler})
	}
	for version, group := range map[string]string{"v1.0": "v1", "v1.0-alpha1": "v1alpha1"} {
		store := "/" + version + "/configuration/{storeName}"
		add("configuration", group+"/configuration", "GET", store, "GetConfiguration")
		add("configuration", group+"/configuration", "GET", store+"/subscribe", "SubscribeConfiguration")
		add("configuration", group+"/configuration", "GET", store+"/{configurationSubscribeID}/unsubscribe", "UnsubscribeConfiguration")
	}
	for version, group := range map[string]string{"v1.0": "v1", "v1.0-beta1": "v1beta1", "v1.0-alpha1": "v1alpha1"} {
		for _, r := range [][3]string{
			{"POST", "{workflowName}/start", "StartWorkflow"},
			{"POST", "{instanceID}/raiseEvent/{eventName}", "RaiseEventWorkflow"},
			{"POST", "{instanceID}/pause", "PauseWorkflow"},
			{"POST", "{instanceID}/resume", "ResumeWorkflow"},
			{"POST", "{instanceID}/terminate", "TerminateWorkflow"},
			{"POST", "{instanceID}/purge", "PurgeWorkflow"},
			{"GET", "{instanceID}", "GetWorkflow"},
		} {
			add("workflow", group+"/workflows", r[0], "/"+version+"/workflows/{workflowComponent}/"+r[1], r[2])
		}
	}
	add("conversation", "v1alpha1/conversation", "POST", "/v1.0-alpha1/conversation/{name}/converse", "Converse")
	add("conversation", "v1alpha2/conversation", "POST", "/v1.0-alpha2/conversation/{name}/converse", "Converse")
	add("distributed lock", "v1alpha1/lock", "POST", "/v1.0-alpha1/lock/{storeName}", "TryLock")
	add("distributed lock", "v1alpha1/unlock", "POST", "/v1.0-alpha1/unlock/{storeName}", "Unlock")
	add("cryptography", "v1alpha1/crypto", "PUT", "/v1.0-alpha1/crypto/{name}/encrypt", "Encrypt")
	add("cryptography", "v1alpha1/crypto", "PUT", "/v1.0-alpha1/crypto/{name}/decrypt", "Decrypt")
	for call, name := range map[string]string{
		"getkey": "SubtleGetKey", "encrypt": "SubtleEncrypt", "decrypt": "SubtleDecrypt", "wrapkey": "SubtleWrapKey",
		"unwrapkey": "SubtleUnwrapKey", "sign": "SubtleSign", "verify": "SubtleVerify",
	} {
		add("cryptography", "v1alpha1/subtlecrypto", "POST", "/v1.0-alpha1/subtlecrypto/{name}/"+call, name)
	}
	return routes
}
