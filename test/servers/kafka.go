package servers

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Credentials of a Kafka server. They guard nothing: the server is on loopback
// and its data is thrown away.
const (
	kafkaUser     = "outrigger"
	kafkaPassword = "secret"
)

// KafkaServer is one Kafka broker that is its own controller (KRaft). Addr
// takes clients in clear text and without credentials; the other listeners
// lead to the same topics. Topics come into being when they are used, with one
// partition (see num.partitions).
type KafkaServer struct {
	Server
	// SASLAddr takes the credentials in clear text: PLAIN, SCRAM-SHA-256 and
	// SCRAM-SHA-512 with User and Password, and OAUTHBEARER with any unsecured
	// token (RFC 7515, alg none) that has sub and exp.
	SASLAddr string
	// TLSAddr asks for no certificate, MutualTLSAddr for one of the same authority.
	TLSAddr, MutualTLSAddr string
	// SASLTLSAddr is SASLAddr over TLS.
	SASLTLSAddr    string
	User, Password string
	// TLS is what clients of the TLS listeners need.
	TLS *Certificates
}

// Kafka returns a running Kafka broker. Tests that share it keep apart by the
// names of topics and groups. It takes about two seconds to start. What was
// acknowledged survives Kill; with [Durable] it is on disk as well.
func Kafka(tb testing.TB, opts ...Option) *KafkaServer {
	tb.Helper()
	n := acquire(tb, kindKafka, opts, launchKafka)
	return &KafkaServer{
		Server: bind(tb, n.process), User: kafkaUser, Password: kafkaPassword, TLS: n.certs,
		SASLAddr: loopback(n.ports["SASL"]), TLSAddr: loopback(n.ports["TLS"]),
		MutualTLSAddr: loopback(n.ports["MTLS"]), SASLTLSAddr: loopback(n.ports["SASLTLS"]),
	}
}

// kafkaListeners are the names of the listeners and what they speak.
var kafkaListeners = [...]struct{ name, protocol string }{
	{"PLAIN", "PLAINTEXT"},
	{"SASL", "SASL_PLAINTEXT"},
	{"TLS", "SSL"},
	{"MTLS", "SSL"},
	{"SASLTLS", "SASL_SSL"},
	{"CONTROLLER", "PLAINTEXT"},
}

// kafkaNode is a Kafka broker.
type kafkaNode struct {
	process *process
	ports   map[string]int // by listener
	certs   *Certificates
}

func (n *kafkaNode) processes() []*process { return []*process{n.process} }

func (n *kafkaNode) ready() error { return nil } // it answers, which is all there is

// kafkaJars finds the newest broker that test/setup/kafka.sh fetched.
func kafkaJars() (dir, jar string, ok bool) {
	cache, err := cacheDir()
	if err != nil {
		return "", "", false
	}
	found, _ := filepath.Glob(filepath.Join(cache, "kafka", "[0-9]*", "kafka_2.13-*.jar"))
	if len(found) == 0 {
		return "", "", false
	}
	slices.Sort(found)
	jar = found[len(found)-1]
	return filepath.Dir(jar), jar, true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func launchKafka(dir string, o options) (*kafkaNode, error) {
	java, err := exec.LookPath("java")
	jars, jar, ok := kafkaJars()
	if err != nil || !ok {
		return nil, &missingError{"Kafka (its jars, java)", "test/setup/kafka.sh"}
	}
	// Few threads and a compiler that is done early: a broker for tests is young all its life.
	command := []string{
		"-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(jars, "*"),
	}
	if archive := filepath.Join(jars, "broker.jsa"); exists(archive) { // made by kafka.sh
		command = append([]string{"-XX:SharedArchiveFile=" + archive}, command...)
	}
	data := filepath.Join(dir, "data")
	if err := kafkaData(java, jar, command, data); err != nil {
		return nil, err
	}
	n := &kafkaNode{ports: map[string]int{}}
	certs, files, err := makeCertificates(dir)
	if err != nil {
		return nil, err
	}
	n.certs = certs
	var held []*portLock
	for _, l := range kafkaListeners {
		port, locks, err := reservePort()
		held = append(held, locks...)
		if err != nil {
			for _, l := range held {
				l.release()
			}
			return nil, err
		}
		n.ports[l.name] = port
	}
	config := filepath.Join(dir, "server.properties")
	n.process = &process{
		name: "Kafka", command: java, args: append(command, "kafka.Kafka", config), dir: dir,
		port: n.ports["PLAIN"], held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error { return kafkaPing(ctx, loopback(n.ports["PLAIN"])) },
	}
	settings, err := n.settings(dir, data, files)
	if err == nil {
		if o.durable {
			settings = append(settings, setting{"log.flush.interval.messages", "1"})
		}
		err = writeKafkaConfig(config, append(settings, o.settings...))
	}
	if err == nil {
		err = n.process.start()
	}
	if err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// kafkaData fills a directory with the metadata of an empty cluster that knows the user.
func kafkaData(java, jar string, command []string, dir string) error {
	var users []string
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		users = append(users, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, kafkaUser, kafkaPassword))
	}
	return dataFromTemplate(kindKafka, jar, strings.Join(users, " "), dir, nil, func(made string) error {
		config := made + ".properties"
		defer os.Remove(config)
		err := writeKafkaConfig(config, []setting{
			{"process.roles", "broker,controller"},
			{"node.id", "1"},
			{"controller.quorum.voters", "1@127.0.0.1:9093"},
			{"controller.listener.names", "CONTROLLER"},
			{"listeners", "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"},
			{"log.dirs", made},
		})
		if err != nil {
			return err
		}
		args := append(slices.Clone(command), "kafka.tools.StorageTool", "format", "-t", "b3V0cmlnZ2VyLXRlc3QtMQ", "-c", config)
		return runTool(nil, made, java, append(args, users...)...)
	})
}

// settings is the configuration of the broker.
func (n *kafkaNode) settings(dir, data string, files serverFiles) ([]setting, error) {
	pair := filepath.Join(dir, "server-pair.pem")
	if err := joinFiles(pair, files.key, files.cert); err != nil {
		return nil, err
	}
	var all, advertised, protocols []string
	for _, l := range kafkaListeners {
		address := l.name + "://" + loopback(n.ports[l.name])
		all = append(all, address)
		protocols = append(protocols, l.name+":"+l.protocol)
		if l.name != "CONTROLLER" {
			advertised = append(advertised, address)
		}
	}
	s := []setting{
		{"process.roles", "broker,controller"},
		{"node.id", "1"},
		{"controller.quorum.voters", "1@" + loopback(n.ports["CONTROLLER"])},
		{"controller.listener.names", "CONTROLLER"},
		{"inter.broker.listener.name", "PLAIN"},
		{"listeners", strings.Join(all, ",")},
		{"advertised.listeners", strings.Join(advertised, ",")},
		{"listener.security.protocol.map", strings.Join(protocols, ",")},
		{"log.dirs", data},
		// One broker has to do.
		{"offsets.topic.replication.factor", "1"},
		{"offsets.topic.num.partitions", "1"},
		{"transaction.state.log.replication.factor", "1"},
		{"transaction.state.log.min.isr", "1"},
		{"transaction.state.log.num.partitions", "1"},
		{"share.coordinator.state.topic.replication.factor", "1"},
		{"share.coordinator.state.topic.min.isr", "1"},
		// Quick starts, joins and stops.
		{"group.initial.rebalance.delay.ms", "0"},
		{"controlled.shutdown.enable", "false"},
		// A broker that comes back waits until the controller has given up its former life.
		{"broker.session.timeout.ms", "1000"},
		{"broker.heartbeat.interval.ms", "200"},
		{"num.network.threads", "2"},
		{"num.io.threads", "4"},
		{"log.cleaner.enable", "false"},
		{"group.min.session.timeout.ms", "1000"},
		{"message.max.bytes", fmt.Sprint(16 << 20)},

		{"sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"},
	}
	const modules = "org.apache.kafka.common.security."
	for _, listener := range []string{"sasl", "sasltls"} {
		for mechanism, module := range map[string]string{
			"plain":         fmt.Sprintf(`%splain.PlainLoginModule required user_%s="%s";`, modules, kafkaUser, kafkaPassword),
			"scram-sha-256": modules + "scram.ScramLoginModule required;",
			"scram-sha-512": modules + "scram.ScramLoginModule required;",
			"oauthbearer":   modules + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,
		} {
			s = append(s, setting{"listener.name." + listener + "." + mechanism + ".sasl.jaas.config", module})
		}
	}
	for listener, clients := range map[string]string{"tls": "none", "mtls": "required", "sasltls": "none"} {
		prefix := "listener.name." + listener + ".ssl."
		s = append(s,
			setting{prefix + "client.auth", clients},
			setting{prefix + "keystore.type", "PEM"}, setting{prefix + "keystore.location", pair},
			setting{prefix + "truststore.type", "PEM"}, setting{prefix + "truststore.location", files.ca})
	}
	return s, nil
}

// joinFiles writes one file with the text of others.
func joinFiles(to string, from ...string) error {
	var text []byte
	for _, path := range from {
		part, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("servers: %w", err)
		}
		text = append(text, part...)
	}
	return os.WriteFile(to, text, 0o600)
}

// writeKafkaConfig writes settings as Java's properties; of two with one name the later wins.
func writeKafkaConfig(path string, settings []setting) error {
	var text strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&text, "%s=%s\n", s.name, strings.ReplaceAll(s.value, `\`, `\\`))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	return nil
}

// kafkaPing asks a broker for the versions that it speaks, which it answers once it takes requests.
func kafkaPing(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	const id = 7
	request := binary.BigEndian.AppendUint32(nil, 10) // what follows
	request = binary.BigEndian.AppendUint16(request, 18)
	request = binary.BigEndian.AppendUint16(request, 0)
	request = binary.BigEndian.AppendUint32(request, id)
	request = binary.BigEndian.AppendUint16(request, 0xffff) // no client id
	if _, err := conn.Write(request); err != nil {
		return err
	}
	var reply [10]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return err
	}
	if got, code := binary.BigEndian.Uint32(reply[4:]), binary.BigEndian.Uint16(reply[8:]); got != id || code != 0 {
		return fmt.Errorf("kafka at %s answers request %d with request %d, error %d", address, id, got, code)
	}
	return nil
}
