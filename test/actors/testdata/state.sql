-- A database of state.sqlite with the state of an actor, written by Dapr 1.18.3.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE metadata (
			key text NOT NULL PRIMARY KEY,
			value text NOT NULL
		);
INSERT INTO metadata VALUES('migrations','1');
CREATE TABLE state (
							key TEXT NOT NULL PRIMARY KEY,
							value TEXT NOT NULL,
							is_binary BOOLEAN NOT NULL,
							etag TEXT NOT NULL,
							expiration_time TIMESTAMP DEFAULT NULL,
							update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
						);
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||metadata','EAkYAQ==',1,'c721b724-d144-4814-a85a-b402a2021982',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000000','CP///////////wESCwjt4oPYBhDhh4JwcgA=',1,'9e8bbc7d-0b89-49fd-a158-99214d892386',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000001','CP///////////wESCwjt4oPYBhDZ2Phu8gELCglnb2xkZW5hcHAaRAoFY2hhaW4aCQoHImhlbGxvIiIwCgZkb25lLTESJgokNDU5ZWQzYzUtZjIxZC00NzI4LWI1ZTItOTdiYTYyZmU0NGNj',1,'5e973e19-6894-4f27-a1cf-d73fde6891a7',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000002','EgsI7eKD2AYQzqqkcPIBCwoJZ29sZGVuYXBwMjcKBGVjaG8aCQoHImhlbGxvIiokYjExZjBmOWEtNTk5YS00YWUzLThmZjItMDE2ODhjY2M0NjI1',1,'9e80c0b5-ddbb-43a4-b53c-1fd65ece911a',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000003','CP///////////wESCwjt4oPYBhD2r5BzcgA=',1,'3f45f505-b4df-4c7d-b1dc-f2b6d5d3e88d',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000004','CP///////////wESCwjt4oPYBhC+1cFx8gELCglnb2xkZW5hcHA6MhIKCggiaGVsbG8hIhokYjExZjBmOWEtNTk5YS00YWUzLThmZjItMDE2ODhjY2M0NjI1',1,'cb9e53d4-b266-4b71-b714-5d605840b148',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000005','CAESCwjt4oPYBhCUnbZz8gELCglnb2xkZW5hcHAyOAoEZWNobxoKCggiaGVsbG8hIiokOTQ0NmVmYWMtODU2Ny00NzVlLWFlYjgtMzhiMDVmNWRkOTNj',1,'fabf704d-33b0-499e-9e20-9f28cc76054d',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000006','CP///////////wESCwjt4oPYBhDQtq13cgA=',1,'a38e81e1-0803-4860-a165-2d550dbb347f',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000007','CP///////////wESCwjt4oPYBhCQwrJ08gELCglnb2xkZW5hcHA6NQgBEgsKCSJoZWxsbyEhIhokOTQ0NmVmYWMtODU2Ny00NzVlLWFlYjgtMzhiMDVmNWRkOTNj',1,'661b7fd5-9c76-4278-b69f-ad99810b606d',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||history-000008','CAISCwjt4oPYBhCKoeh38gELCglnb2xkZW5hcHAiDwgBEgsKCSJoZWxsbyEhIg==',1,'94cd9d1c-f78c-49d2-9be1-d9950f5be0b2',NULL,'2026-11-21 01:18:37');
INSERT INTO state VALUES('goldenapp||dapr.internal.default.goldenapp.workflow||done-1||customStatus','CghzdGVwIHR3bw==',1,'a3e004c3-8be0-4a61-9cb3-f4c45871c1f8',NULL,'2026-11-21 01:18:37');
COMMIT;
