/*M!999999\- enable the sandbox mode */ 

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;

CREATE DATABASE /*!32312 IF NOT EXISTS*/ `dapr` /*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci */;

USE `dapr`;
DROP TABLE IF EXISTS `dapr_metadata`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `dapr_metadata` (
  `id` varchar(255) NOT NULL,
  `value` text NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `dapr_metadata` WRITE;
/*!40000 ALTER TABLE `dapr_metadata` DISABLE KEYS */;
/*!40000 ALTER TABLE `dapr_metadata` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `state`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `state` (
  `id` varchar(255) NOT NULL,
  `value` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`value`)),
  `isbinary` tinyint(1) NOT NULL,
  `insertDate` timestamp NOT NULL DEFAULT current_timestamp(),
  `updateDate` timestamp NOT NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
  `eTag` varchar(36) NOT NULL,
  `expiredate` timestamp NULL DEFAULT NULL,
  `row_id` bigint(20) unsigned NOT NULL AUTO_INCREMENT,
  PRIMARY KEY (`id`),
  UNIQUE KEY `row_id_uidx` (`row_id`),
  KEY `expiredate_idx` (`expiredate`)
) ENGINE=InnoDB AUTO_INCREMENT=12 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `state` WRITE;
/*!40000 ALTER TABLE `state` DISABLE KEYS */;
INSERT INTO `state` VALUES
('someapp||html','\"\\u003ca\\u003e\\u0026\"',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','79afcbe8-945c-4ff2-9d7d-25c0691abd6b',NULL,6),
('someapp||null','null',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','4a73e981-0833-4b1d-8e36-2ed67b9ee886',NULL,5),
('someapp||object','{\"item\":\"pizza\",\"nested\":{\"a\":[1,2.5,null,true]},\"qty\":2}',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','c3b93e67-df45-4a72-a100-3250da82ff54',NULL,2),
('someapp||string','\"plain\"',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','28cb1d25-ba1a-465d-8b1e-319e008ba5b5',NULL,7),
('someapp||text','\"words\"',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','575eb366-81fc-4c93-8e4d-362b9d2264b7',NULL,8),
('someapp||ttl','\"expires\"',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','c771b6ec-b752-40c9-8f7c-62f4e3def7ce','2026-11-22 01:16:34',4),
('someapp||twice','2',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','c297f020-9e59-4105-93a3-d144e9ba2996',NULL,10),
('someapp||tx','{\"t\":1}',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','43a14d92-ff30-4238-9be2-9dabad4cc5f9',NULL,11),
('someapp||unicode','\"žluťoučký 🐎\"',0,'2026-11-21 01:16:34','2026-11-21 01:16:34','ffa351bd-328c-4993-8de9-b31e69f01805',NULL,3);
/*!40000 ALTER TABLE `state` ENABLE KEYS */;
UNLOCK TABLES;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40014 SET UNIQUE_CHECKS=@OLD_UNIQUE_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

