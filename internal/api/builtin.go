package api

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// builtin are the managed policies that are there from the start and cannot be
// changed, under the names that AWS's have and that existing set-ups attach.
var builtin = func() map[string]sallyport.Policy {
	all := map[string]sallyport.Policy{}
	for name, p := range map[string][2]string{
		"AdministratorAccess":          {"Everything, on everything.", allow("*")},
		"AmazonSSMManagedInstanceCore": {"What the agent on a managed node needs to be managed.", allow(nodeActions...)},
		"AmazonSSMReadOnlyAccess":      {"Seeing nodes and sessions, and changing nothing.", allow("ssm:Describe*", "ssm:Get*", "ssm:List*")},
		"AmazonSSMFullAccess":          {"Everything in Systems Manager.", allow("ssm:*", "ssmmessages:*", "ec2messages:*")},
		"AWSKeyManagementServicePowerUser": {"Making KMS keys and aliases, and seeing what there is.", allow("kms:CreateAlias", "kms:CreateKey", "kms:DeleteAlias",
			"kms:Describe*", "kms:Get*", "kms:List*", "kms:TagResource", "kms:UntagResource", "iam:ListGroups", "iam:ListRoles", "iam:ListUsers")},
		"IAMFullAccess":     {"Everything in IAM.", allow("iam:*")},
		"IAMReadOnlyAccess": {"Seeing users, groups, roles and policies, and changing nothing.", allow("iam:Get*", "iam:List*", "iam:SimulatePrincipalPolicy")},
	} {
		arn := "arn:" + sallyport.Partition + ":iam::aws:policy/" + name
		all[arn] = sallyport.Policy{
			ARN: arn, Name: name, Path: "/", ID: builtinID(name), Description: p[0],
			Created: builtinSince, Updated: builtinSince, Default: "v1", Document: p[1],
		}
	}
	return all
}()

var builtinSince = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// nodeActions is what an agent may call sooner or later. (AWS's policy of the
// same name; amazon-ssm-agent calls every one of them.)
var nodeActions = []string{
	"ssm:DescribeAssociation", "ssm:GetDeployablePatchSnapshotForInstance", "ssm:GetDocument", "ssm:DescribeDocument",
	"ssm:GetManifest", "ssm:GetParameter", "ssm:GetParameters", "ssm:ListAssociations", "ssm:ListInstanceAssociations",
	"ssm:PutInventory", "ssm:PutComplianceItems", "ssm:PutConfigurePackageResult", "ssm:UpdateAssociationStatus",
	"ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation",
	"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
	"ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint",
	"ec2messages:GetMessages", "ec2messages:SendReply",
}

func allow(actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["` + strings.Join(actions, `","`) + `"],"Resource":"*"}]}`
}

// builtinID makes an ID that looks as IDs do and is always the same.
func builtinID(name string) string {
	id := "ANPASALLYPORT" + strings.ToUpper(strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, name))
	return (id + "AAAAAAAAAAAAAAAAAAAAA")[:21]
}

// Builtin returns the managed policy of AWS's with an ARN, if it is one that is
// here from the start.
func Builtin(arn string) (sallyport.Policy, bool) {
	p, ok := builtin[arn]
	return p, ok
}

// Builtins returns all of them, in no order.
func Builtins() []sallyport.Policy {
	all := make([]sallyport.Policy, 0, len(builtin))
	for _, p := range builtin {
		all = append(all, p)
	}
	return all
}
