package api_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/api/gen/durabletask"
	backendv1 "outrigger.dev/api/gen/durabletask/backend/v1"
	"outrigger.dev/api/gen/etcdcron"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	operatorv1 "outrigger.dev/api/gen/operator/v1"
	placementv1 "outrigger.dev/api/gen/placement/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	workflowsv1 "outrigger.dev/api/gen/workflows/v1"
)

const (
	goldenFile = "testdata/wire.txt"
	// updateVariable names the environment variable that makes TestWire write
	// the golden file. A changed line breaks every peer: only add lines.
	updateVariable = "UPDATE_WIRE"
)

// contracts returns the descriptors of all our contracts, sorted by import path.
func contracts() []protoreflect.FileDescriptor {
	var files []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		options, _ := file.Options().(*descriptorpb.FileOptions)
		if strings.HasPrefix(options.GetGoPackage(), "outrigger.dev/api/gen/") {
			files = append(files, file)
		}
		return true
	})
	slices.SortFunc(files, func(a, b protoreflect.FileDescriptor) int {
		return strings.Compare(a.Path(), b.Path())
	})
	return files
}

// TestWire compares every field, enum value and method with the golden file.
func TestWire(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("# Every name and number of the wire contracts, made from their descriptors.\n" +
		"# field: message.field number type label json_name\n" +
		"# value: enum.value number\n" +
		"# rpc:   service.method (request) (response)\n")
	for _, file := range contracts() {
		fmt.Fprintf(&out, "\nfile %s package %q %s\n", file.Path(), file.Package(), file.Syntax())
		writeEnums(&out, file.Enums())
		writeMessages(&out, file.Messages())
		writeServices(&out, file.Services())
	}
	if os.Getenv(updateVariable) != "" {
		if err := os.WriteFile(goldenFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(want, out.Bytes()) {
		return
	}
	missing, extra := difference(want, out.Bytes())
	for _, line := range missing {
		t.Errorf("lost from the wire contracts: %s", line)
	}
	for _, line := range extra {
		t.Errorf("not in %s: %s", goldenFile, line)
	}
	if len(missing)+len(extra) == 0 {
		t.Errorf("the order of %s differs", goldenFile)
	}
	t.Logf("if only lines were added on purpose, run: %s=1 go test ./api -run TestWire", updateVariable)
}

// difference returns the lines only in want and those only in got.
func difference(want, got []byte) (missing, extra []string) {
	count := make(map[string]int)
	for line := range strings.Lines(string(want)) {
		count[line]++
	}
	for line := range strings.Lines(string(got)) {
		if count[line] == 0 {
			extra = append(extra, strings.TrimSpace(line))
			continue
		}
		count[line]--
	}
	for line := range strings.Lines(string(want)) {
		if count[line] > 0 {
			count[line]--
			missing = append(missing, strings.TrimSpace(line))
		}
	}
	return missing, extra
}

func writeEnums(out *bytes.Buffer, enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		enum := enums.Get(i)
		fmt.Fprintf(out, "enum %s\n", enum.FullName())
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			fmt.Fprintf(out, "value %s.%s %d\n", enum.FullName(), value.Name(), value.Number())
		}
	}
}

func writeMessages(out *bytes.Buffer, messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		if message.IsMapEntry() {
			continue
		}
		fmt.Fprintf(out, "message %s\n", message.FullName())
		fields := make([]protoreflect.FieldDescriptor, message.Fields().Len())
		for j := range fields {
			fields[j] = message.Fields().Get(j)
		}
		slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int {
			return int(a.Number()) - int(b.Number())
		})
		for _, field := range fields {
			fmt.Fprintf(out, "field %s %d %s %s %s\n",
				field.FullName(), field.Number(), fieldType(field), fieldLabel(field), field.JSONName())
		}
		for j := range message.ReservedRanges().Len() {
			r := message.ReservedRanges().Get(j) // the end is exclusive
			fmt.Fprintf(out, "reserved %s %d..%d\n", message.FullName(), r[0], r[1]-1)
		}
		writeEnums(out, message.Enums())
		writeMessages(out, message.Messages())
	}
}

func writeServices(out *bytes.Buffer, services protoreflect.ServiceDescriptors) {
	stream := func(is bool) string {
		if is {
			return "stream "
		}
		return ""
	}
	for i := range services.Len() {
		service := services.Get(i)
		fmt.Fprintf(out, "service %s\n", service.FullName())
		for j := range service.Methods().Len() {
			method := service.Methods().Get(j)
			fmt.Fprintf(out, "rpc %s.%s (%s%s) (%s%s)\n", service.FullName(), method.Name(),
				stream(method.IsStreamingClient()), method.Input().FullName(),
				stream(method.IsStreamingServer()), method.Output().FullName())
		}
	}
}

func fieldType(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "map<" + fieldType(field.MapKey()) + "," + fieldType(field.MapValue()) + ">"
	case field.Message() != nil:
		return string(field.Message().FullName())
	case field.Enum() != nil:
		return string(field.Enum().FullName())
	}
	return field.Kind().String()
}

func fieldLabel(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "map"
	case field.IsList():
		return "repeated"
	case field.HasOptionalKeyword():
		return "optional"
	case field.ContainingOneof() != nil:
		return "oneof:" + string(field.ContainingOneof().Name())
	}
	return "single"
}

// TestGeneratedIsCurrent fails when a contract was edited without "go generate ./api".
func TestGeneratedIsCurrent(t *testing.T) {
	generated := make(map[string]string)
	digests, err := os.Open("gen/sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	defer digests.Close()
	for lines := bufio.NewScanner(digests); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			t.Fatalf("gen/sources.sha256: line %q is not a digest and a name", lines.Text())
		}
		generated[name] = sum
	}
	registered := make(map[string]bool)
	for _, file := range contracts() {
		registered[file.Path()] = true
	}
	onDisk := 0
	err = filepath.WalkDir("proto", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(file) != ".proto" {
			return err
		}
		onDisk++
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("proto", file)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != generated[name] {
			t.Errorf("%s was edited after its code was generated: run go generate ./api", file)
		}
		importPath := strings.TrimPrefix(strings.TrimPrefix(name, "durabletask/"), "etcdcron/")
		if !registered[importPath] {
			t.Errorf("%s has no generated code: run go generate ./api", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if onDisk != len(generated) || onDisk != len(registered) {
		t.Errorf("%d contracts on disk, %d generated from, %d compiled in: run go generate ./api",
			onDisk, len(generated), len(registered))
	}
}

// TestDaprMethods holds the app API by name, so that a mistake in the golden file cannot lose a method.
func TestDaprMethods(t *testing.T) {
	const server, both = "server", "both"
	streams := map[string]string{
		"SubscribeTopicEventsAlpha1":   both,
		"SubscribeActorEventsAlpha1":   both,
		"EncryptAlpha1":                both,
		"DecryptAlpha1":                both,
		"SubscribeConfigurationAlpha1": server,
		"SubscribeConfiguration":       server,
	}
	want := strings.Fields(`
		InvokeService
		GetState GetBulkState SaveState QueryStateAlpha1 DeleteState DeleteBulkState ExecuteStateTransaction
		PublishEvent BulkPublishEventAlpha1 BulkPublishEvent SubscribeTopicEventsAlpha1
		InvokeBinding
		GetSecret GetBulkSecret
		RegisterActorTimer UnregisterActorTimer RegisterActorReminder UnregisterActorReminder
		UnregisterActorRemindersByType ListActorReminders GetActorState GetActorReminder
		ExecuteActorStateTransaction InvokeActor SubscribeActorEventsAlpha1
		GetConfigurationAlpha1 GetConfiguration SubscribeConfigurationAlpha1 SubscribeConfiguration
		UnsubscribeConfigurationAlpha1 UnsubscribeConfiguration
		TryLockAlpha1 UnlockAlpha1
		EncryptAlpha1 DecryptAlpha1
		GetMetadata SetMetadata
		SubtleGetKeyAlpha1 SubtleEncryptAlpha1 SubtleDecryptAlpha1 SubtleWrapKeyAlpha1
		SubtleUnwrapKeyAlpha1 SubtleSignAlpha1 SubtleVerifyAlpha1
		StartWorkflowAlpha1 GetWorkflowAlpha1 PurgeWorkflowAlpha1 TerminateWorkflowAlpha1
		PauseWorkflowAlpha1 ResumeWorkflowAlpha1 RaiseEventWorkflowAlpha1
		StartWorkflowBeta1 GetWorkflowBeta1 PurgeWorkflowBeta1 TerminateWorkflowBeta1
		PauseWorkflowBeta1 ResumeWorkflowBeta1 RaiseEventWorkflowBeta1
		Shutdown
		ScheduleJobAlpha1 ScheduleJob GetJobAlpha1 GetJob DeleteJobAlpha1 DeleteJob
		DeleteJobsByPrefixAlpha1 DeleteJobsByPrefix ListJobsAlpha1 ListJobs
		ConverseAlpha1 ConverseAlpha2`)
	methods := runtimev1.File_dapr_proto_runtime_v1_dapr_proto.Services().ByName("Dapr").Methods()
	if methods.Len() != len(want) {
		t.Errorf("dapr.proto.runtime.v1.Dapr has %d methods, want %d", methods.Len(), len(want))
	}
	for _, name := range want {
		method := methods.ByName(protoreflect.Name(name))
		if method == nil {
			t.Errorf("dapr.proto.runtime.v1.Dapr.%s is missing", name)
			continue
		}
		kind := streams[name]
		if client := kind == both; method.IsStreamingClient() != client {
			t.Errorf("%s: client streaming %t, want %t", name, method.IsStreamingClient(), client)
		}
		if server := kind != ""; method.IsStreamingServer() != server {
			t.Errorf("%s: server streaming %t, want %t", name, method.IsStreamingServer(), server)
		}
	}
}

// TestServices checks that the gRPC code serves exactly the services of the contracts.
func TestServices(t *testing.T) {
	descs := make(map[protoreflect.FullName]grpc.ServiceDesc)
	for _, desc := range []grpc.ServiceDesc{
		componentsv1.InputBinding_ServiceDesc,
		componentsv1.OutputBinding_ServiceDesc,
		componentsv1.PubSub_ServiceDesc,
		componentsv1.SecretStore_ServiceDesc,
		componentsv1.QueriableStateStore_ServiceDesc,
		componentsv1.TransactionalStateStore_ServiceDesc,
		componentsv1.StateStore_ServiceDesc,
		componentsv1.TransactionalStoreMultiMaxSize_ServiceDesc,
		durabletask.TaskHubSidecarService_ServiceDesc,
		internalsv1.ServiceInvocation_ServiceDesc,
		operatorv1.Operator_ServiceDesc,
		placementv1.Placement_ServiceDesc,
		runtimev1.AppCallback_ServiceDesc,
		runtimev1.AppCallbackHealthCheck_ServiceDesc,
		runtimev1.AppCallbackAlpha_ServiceDesc,
		runtimev1.Dapr_ServiceDesc,
		schedulerv1.Scheduler_ServiceDesc,
		sentryv1.CA_ServiceDesc,
	} {
		descs[protoreflect.FullName(desc.ServiceName)] = desc
	}
	for _, file := range contracts() {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			desc, ok := descs[service.FullName()]
			if !ok {
				t.Errorf("service %s has no gRPC code in this test: add it", service.FullName())
				continue
			}
			delete(descs, service.FullName())
			checkService(t, service, desc)
		}
	}
	for name := range descs {
		t.Errorf("service %s is in no contract", name)
	}
}

func checkService(t *testing.T, service protoreflect.ServiceDescriptor, desc grpc.ServiceDesc) {
	t.Helper()
	served := make(map[protoreflect.Name][2]bool)
	for _, method := range desc.Methods {
		served[protoreflect.Name(method.MethodName)] = [2]bool{}
	}
	for _, stream := range desc.Streams {
		served[protoreflect.Name(stream.StreamName)] = [2]bool{stream.ClientStreams, stream.ServerStreams}
	}
	if len(served) != service.Methods().Len() {
		t.Errorf("%s serves %d methods, want %d", service.FullName(), len(served), service.Methods().Len())
	}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		got, ok := served[method.Name()]
		want := [2]bool{method.IsStreamingClient(), method.IsStreamingServer()}
		if !ok || got != want {
			t.Errorf("%s: served %t with streams %v, want %v", method.FullName(), ok, got, want)
		}
	}
}

// TestWireBytes holds encodings made by hand from the numbers that are easiest to get wrong.
func TestWireBytes(t *testing.T) {
	tests := []struct {
		name    string
		message proto.Message
		want    string // hexadecimal
	}{
		{"message of InvokeService is 3", &runtimev1.InvokeServiceRequest{Id: "a", Message: &commonv1.InvokeRequest{Method: "m"}}, "0a01611a030a016d"},
		{"key name of decrypt is 12", &runtimev1.DecryptRequestOptions{KeyName: "k"}, "62016b"},
		{"cipher of encrypt is 10", &runtimev1.EncryptRequestOptions{DataEncryptionCipher: "c"}, "520163"},
		{"an empty etag is not an absent one", &commonv1.StateItem{Etag: &commonv1.Etag{}}, "1a00"},
		{"a job repeats 0 times if set", &schedulerv1.Job{Repeats: proto.Uint32(0)}, "1000"},
		{"a job repeats without end if not set", &schedulerv1.Job{}, ""},
		{"stored jobs repeat under 4", &etcdcron.Job{Repeats: proto.Uint32(2)}, "2002"},
		{"routes of a subscription are 5", &runtimev1.TopicSubscription{Routes: &runtimev1.TopicRoutes{Default: "/"}}, "2a0312012f"},
		{"a drop policy is present though empty", &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}, "0a00"},
		{"namespace of ListSubscriptionsV2 is 2", &operatorv1.ListSubscriptionsRequest{Namespace: "n"}, "12016e"},
		{"hosts are keyed by number", &placementv1.PlacementTable{Hosts: map[uint64]string{1: "h"}}, "0a050801120168"},
		{"a packed sorted set", &placementv1.PlacementTable{SortedSet: []uint64{1, 300}}, "120301ac02"},
		{"router of an event is 30", &durabletask.HistoryEvent{EventId: -1, Router: &durabletask.TaskRouter{SourceAppID: "a"}}, "08ffffffffffffffffff01f201030a0161"},
		{"suspension of a workflow is 21", &durabletask.HistoryEvent{EventType: &durabletask.HistoryEvent_ExecutionSuspended{ExecutionSuspended: &durabletask.ExecutionSuspendedEvent{}}}, "aa0100"},
		{"token of a work item is 10", &durabletask.WorkItem{CompletionToken: "t"}, "520174"},
		{"history of a new workflow is 3", &backendv1.CreateWorkflowInstanceRequest{PropagatedHistory: &durabletask.PropagatedHistory{}}, "1a00"},
		{"stalled status is 8", &backendv1.WorkflowMetadata{RuntimeStatus: durabletask.OrchestrationStatus_ORCHESTRATION_STATUS_STALLED}, "1808"},
		{"result of a hook is 4", &workflowsv1.MCPAfterCallToolHookInput{Result: []byte("r")}, "220172"},
		{"audiences of a certificate request are 7", &sentryv1.SignCertificateRequest{JwtAudiences: []string{"a"}}, "3a0161"},
		{"payload of a call is 2", &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{Seq: 1}}, "12021001"},
		{"API version of a call is 1", &internalsv1.InternalInvokeRequest{Ver: internalsv1.APIVersion_V1}, "0801"},
		{"content type of a set is 6", &componentsv1.SetRequest{ContentType: "c"}, "320163"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := proto.MarshalOptions{Deterministic: true}.Marshal(test.message)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got) != test.want {
				t.Errorf("encoded as %x, want %s", got, test.want)
			}
			back := test.message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(got, back); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(back, test.message) {
				t.Errorf("decoded as %v, want %v", back, test.message)
			}
		})
	}
}

// TestJSONNames holds the JSON names that are not the usual form of the field's name.
func TestJSONNames(t *testing.T) {
	tests := []struct {
		message proto.Message
		want    []string
	}{
		{
			&runtimev1.GetMetadataResponse{
				ActiveActorsCount:    []*runtimev1.ActiveActorsCount{{}},
				RegisteredComponents: []*runtimev1.RegisteredComponents{{}},
				ExtendedMetadata:     map[string]string{"a": "b"},
				Subscriptions:        []*runtimev1.PubsubSubscription{{PubsubName: "p"}},
				HttpEndpoints:        []*runtimev1.MetadataHTTPEndpoint{{}},
			},
			[]string{"actors", "components", "extended", "subscriptions", "pubsubname", "httpEndpoints"},
		},
		{&runtimev1.RegisterActorReminderRequest{ActorId: "a", FailurePolicy: &commonv1.JobFailurePolicy{}}, []string{"actorId", "failure_policy"}},
		{&runtimev1.GetActorReminderRequest{ActorId: "a"}, []string{"actorID"}},
		{&runtimev1.GetActorReminderResponse{ActorId: "a"}, []string{"actorID"}},
		{&runtimev1.ActorReminder{ActorId: "a"}, []string{"actorID"}},
		{&runtimev1.GetWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.GetWorkflowResponse{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.StartWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.StartWorkflowResponse{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.TerminateWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.PauseWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.ResumeWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.RaiseEventWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.PurgeWorkflowRequest{InstanceId: "i"}, []string{"instanceID"}},
		{&runtimev1.BulkPublishResponse{FailedEntries: []*runtimev1.BulkPublishResponseFailedEntry{{}}}, []string{"failedEntries"}},
		{&runtimev1.ExecuteStateTransactionRequest{StoreName: "s"}, []string{"storeName"}},
		{&runtimev1.ConversationRequest{ScrubPII: proto.Bool(true)}, []string{"scrubPII"}},
		{&runtimev1.ConversationRequestAlpha2{ScrubPii: proto.Bool(true)}, []string{"scrubPii"}},
	}
	for _, test := range tests {
		name := test.message.ProtoReflect().Descriptor().FullName()
		t.Run(string(name), func(t *testing.T) {
			got, err := protojson.Marshal(test.message)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !bytes.Contains(got, []byte(`"`+want+`":`)) {
					t.Errorf("%s has no %q", got, want)
				}
			}
		})
	}
}
